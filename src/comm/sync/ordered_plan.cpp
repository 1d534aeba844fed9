#include <algorithm>

#include "comm/sync/ordered_sync.h"
#include "core/error.h"

// What an OrderedSync works out once: operands, programs and messages of every bucket.

namespace lockstep {
namespace {

constexpr auto float_bytes = static_cast<std::int64_t>(sizeof(float));

std::span<float> floats(float* at, Range range) {
  return {at, static_cast<std::size_t>(range.size())};
}

}  // namespace

OrderedSync::OrderedSync(Communicator& comm, std::int64_t elements, const GradientSyncOptions& options,
                         Timeline* timeline)
    : SyncBase(comm, elements, options, timeline),
      own_(static_cast<std::size_t>(buckets())),
      last_missing_(comm.rank()),
      begun_ns_(static_cast<std::size_t>(buckets())) {
  plan_own();
  plan_carried();
  plan_marks();
  plan_totals();
  count_traffic();
  comm.barrier();
}

void OrderedSync::plan_own() {
  const Topology& t = comm_.topology();
  // The parts of the root, in the order of slices: every rank's subtrees within the group, each other group's
  // own.
  struct Part {
    int rank;  ///< of this group, or -1
    int group;
    std::int64_t index;
  };
  std::vector<Node> nodes;
  std::vector<Part> parts;
  std::int64_t foreign = 0;
  for (int g = 0; g < t.groups(); ++g) {
    if (g != t.group()) {
      std::int64_t index = 0;
      for (const Node& node : subtrees_of_group(options_.slices, t, g)) {
        nodes.push_back(node);
        parts.push_back({-1, g, index++});
        ++foreign;
      }
      continue;
    }
    for (int r = first_of_group(); r < end_of_group(); ++r) {
      std::int64_t index = 0;
      for (const Node& node : subtrees_of_rank(options_.slices, r, t.size)) {
        nodes.push_back(node);
        parts.push_back({r, g, index++});
      }
    }
  }
  program_ = SumProgram(completion_program(options_.slices, nodes));

  std::int64_t received = 0;
  for (std::int64_t b = 0; b < buckets(); ++b) received += foreign * plan_.chunk(b, t.rank).size();
  received_ = HostBuffer(static_cast<std::size_t>(received * float_bytes));
  float* next = received_.as<float>().data();
  double* marks = window_.marks(t.rank);
  for (std::int64_t b = 0; b < buckets(); ++b) {
    Own& own = own_[static_cast<std::size_t>(b)];
    own.range = plan_.chunk(b, t.rank);
    own.marks = marks;
    marks += blocks_of(own.range);
    if (own.range.size() > 0) {
      for (const Part& part : parts) {
        if (part.rank >= 0) {
          own.operands.push_back(window_.slot(part.rank, part.index) + own.range.begin);
          continue;
        }
        own.operands.push_back(next);
        incoming_.append(comm_.make_receive(std::as_writable_bytes(floats(next, own.range)),
                                            plan_.carrier(b, t.rank, part.group), tag_subtree));
        next += own.range.size();
      }
      for (int g = 0; g < t.groups() && !options_.sharded; ++g) {
        if (g == t.group()) continue;
        const float* total = window_.slot(t.rank, 0) + own.range.begin;
        total_out_.append(
            comm_.make_send(std::as_bytes(std::span(total, static_cast<std::size_t>(own.range.size()))),
                            plan_.carrier(b, t.rank, g), tag_total));
      }
    }
    own.incoming_end = incoming_.size();
    own.total_out_end = total_out_.size();
  }
}

void OrderedSync::plan_carried() {
  const Topology& t = comm_.topology();
  if (t.groups() == 1) {
    carried_end_.assign(static_cast<std::size_t>(buckets()), 0);
    return;
  }
  std::vector<Node> nodes;
  std::vector<const float*> slots;
  for (int r = first_of_group(); r < end_of_group(); ++r) {
    std::int64_t index = 0;
    for (const Node& node : subtrees_of_rank(options_.slices, r, t.size)) {
      nodes.push_back(node);
      slots.push_back(window_.slot(r, index++));
    }
  }
  for (const Node& root : subtrees_of_group(options_.slices, t, t.group())) {
    std::vector<Node> inside;
    GroupSubtree subtree;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (nodes[i].begin < root.begin || nodes[i].end > root.end) continue;
      inside.push_back(nodes[i]);
      subtree.operands.push_back(slots[i]);
    }
    subtree.program = SumProgram(completion_program(options_.slices, root, inside));
    group_subtrees_.push_back(std::move(subtree));
  }

  const auto summed = std::count_if(group_subtrees_.begin(), group_subtrees_.end(),
                                    [](const GroupSubtree& s) { return !s.program.is_copy(); });
  std::int64_t elements = 0;
  for (std::int64_t b = 0; b < buckets(); ++b) {
    for (int position = 0; position < t.size; ++position) {
      const int owner = plan_.owner_at(b, position);
      const Range range = plan_.chunk(b, owner);
      if (t.group_of[static_cast<std::size_t>(owner)] == t.group() || range.size() == 0) continue;
      if (plan_.carrier(b, owner, t.group()) != t.rank) continue;
      carried_.push_back({b, owner, range, {}, 0, 0});
      elements += range.size() * summed;
    }
    carried_end_.push_back(carried_.size());
  }
  scratch_ = HostBuffer(static_cast<std::size_t>(elements * float_bytes));
  float* next = scratch_.as<float>().data();
  for (Carried& c : carried_) {
    for (const GroupSubtree& subtree : group_subtrees_) {
      const float* from = subtree.operands[0] + c.range.begin;
      if (subtree.program.is_copy()) {
        c.sums.push_back(nullptr);
      } else {
        c.sums.push_back(next);
        from = next;
        next += c.range.size();
      }
      outgoing_.append(comm_.make_send(
          std::as_bytes(std::span(from, static_cast<std::size_t>(c.range.size()))), c.owner, tag_subtree));
    }
    if (!options_.sharded) {
      float* total = window_.slot(t.rank, 0) + c.range.begin;
      total_in_.append(
          comm_.make_receive(std::as_writable_bytes(floats(total, c.range)), c.owner, tag_total));
    }
    c.outgoing_end = outgoing_.size();
    c.total_in_end = total_in_.size();
  }
}

void OrderedSync::plan_marks() {
  if (!options_.finite_marks) return;
  const Topology& t = comm_.topology();
  // The marks of one owner lie packed in its window, and travel to one rank of each other group, where they
  // lie packed too, behind those of the owners that the same rank receives for.
  std::vector<std::int64_t> filled(static_cast<std::size_t>(t.size), 0);  // by holder: blocks in its window
  std::vector<std::int64_t> count(static_cast<std::size_t>(t.size), 0);   // by owner
  for (std::int64_t b = 0; b < buckets(); ++b) {
    for (int owner = 0; owner < t.size; ++owner)
      count[static_cast<std::size_t>(owner)] += blocks_of(plan_.chunk(b, owner));
  }
  const auto bytes = [&](int holder, std::int64_t at, int owner) {
    return std::as_writable_bytes(std::span(
        window_.marks(holder) + at, static_cast<std::size_t>(count[static_cast<std::size_t>(owner)])));
  };
  for (int r = 0; r < t.size; ++r) filled[static_cast<std::size_t>(r)] = count[static_cast<std::size_t>(r)];
  for (int owner = 0; owner < t.size; ++owner) {
    if (count[static_cast<std::size_t>(owner)] == 0) continue;
    const int home = t.group_of[static_cast<std::size_t>(owner)];
    int holder = owner;
    std::int64_t at = 0;
    if (home != t.group()) {
      holder = plan_.carrier(0, owner, t.group());
      at = filled[static_cast<std::size_t>(holder)];
      filled[static_cast<std::size_t>(holder)] += count[static_cast<std::size_t>(owner)];
      if (holder == t.rank) marks_in_.append(comm_.make_receive(bytes(holder, at, owner), owner, tag_marks));
    }
    for (int g = 0; owner == t.rank && g < t.groups(); ++g) {
      if (g == home) continue;
      marks_out_.append(comm_.make_send(bytes(owner, 0, owner), plan_.carrier(0, owner, g), tag_marks));
    }
    for (std::int64_t b = 0; b < buckets(); ++b) {
      const Range range = plan_.chunk(b, owner);
      if (range.size() > 0) marks_parts_.push_back({range, window_.marks(holder) + at});
      at += blocks_of(range);
    }
  }
}

void OrderedSync::plan_totals() {
  const Topology& t = comm_.topology();
  for (std::int64_t b = 0; b < buckets(); ++b) {
    for (int position = 0; position < t.size; ++position) {
      const int owner = plan_.owner_at(b, position);
      const Range range = plan_.chunk(b, owner);
      if (range.size() == 0 || (options_.sharded && owner != t.rank)) continue;
      const float* data = window_.slot(plan_.holder(b, owner, t.group()), 0) + range.begin;
      // Neighbours in one window are one view: with one rank, or where two buckets of one owner meet.
      if (!totals_.empty() && totals_.back().range.end == range.begin &&
          totals_.back().data + totals_.back().range.size() == data) {
        totals_.back().range.end = range.end;
      } else {
        totals_.push_back({range, data});
      }
    }
  }
}

void OrderedSync::count_traffic() {
  const Topology& t = comm_.topology();
  for (int r = 0; r < t.size; ++r) {
    traffic_.subtrees = std::max(
        traffic_.subtrees, static_cast<std::int64_t>(subtrees_of_rank(options_.slices, r, t.size).size()));
  }
  std::int64_t peers_slots = 0;
  for (int r = first_of_group(); r < end_of_group(); ++r) {
    if (r != t.rank)
      peers_slots += static_cast<std::int64_t>(subtrees_of_rank(options_.slices, r, t.size).size());
  }
  for (const Own& own : own_) {
    traffic_.window_bytes += peers_slots * own.range.size() * float_bytes;
    if (!options_.sharded) traffic_.sent_bytes += (t.groups() - 1) * own.range.size() * float_bytes;
  }
  for (const Carried& c : carried_) {
    traffic_.window_bytes += peers_slots * c.range.size() * float_bytes;
    traffic_.sent_bytes += static_cast<std::int64_t>(group_subtrees_.size()) * c.range.size() * float_bytes;
  }
  if (options_.sharded) {
    traffic_.sent_bytes += parameters_.sent_bytes();
    traffic_.window_bytes += parameters_.window_bytes();
  } else {
    for (std::int64_t b = 0; b < buckets(); ++b) {
      for (int owner = 0; owner < t.size; ++owner) {
        if (plan_.holder(b, owner, t.group()) != t.rank) {
          traffic_.window_bytes += plan_.chunk(b, owner).size() * float_bytes;
        }
      }
    }
  }
  if (options_.finite_marks) {
    std::int64_t blocks = 0;
    for (const Own& own : own_) blocks += blocks_of(own.range);
    traffic_.sent_bytes += (t.groups() - 1) * blocks * static_cast<std::int64_t>(sizeof(double));
  }
}

}  // namespace lockstep
