#include "trainer/checkpoint/state_snapshot.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/flight_recorder.h"
#include "core/index.h"
#include "trainer/step/model_state.h"

namespace lockstep {
namespace {

constexpr int exchange_tag = 72;

/// The metadata of a part: that of a model makes it loadable by others.
std::map<std::string, std::string> metadata_of(PartKind kind) {
  if (kind == PartKind::model) return {{"format", "pt"}};
  return {};
}

/// A share of a copy for each lane.
void copy_share(std::span<const float> from, std::span<float> to, int lane, int lanes) {
  const std::size_t n = from.size(), l = static_cast<std::size_t>(lane),
                    all = static_cast<std::size_t>(lanes);
  const std::size_t begin = n * l / all, end = n * (l + 1) / all;
  std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(begin), end - begin,
              to.begin() + static_cast<std::ptrdiff_t>(begin));
}

}  // namespace

/// What goes to another rank and comes from it, in one message each.
struct StateSnapshot::Peer {
  int rank = 0;
  std::vector<Piece> outgoing, incoming;
  HostBuffer send_memory, receive_memory;
  std::unique_ptr<PersistentRequest> send, receive;

  static std::size_t bytes(const std::vector<Piece>& pieces) {
    std::size_t n = 0;
    for (const Piece& p : pieces) n += at(p.range.size()) * sizeof(float);
    return n;
  }
};

StateSnapshot::StateSnapshot(Communicator& comm, const TrainStep& step, LanePool& lanes,
                             const std::vector<int>& writers)
    : comm_(comm), step_(step), lanes_(lanes) {
  const std::vector<std::string>& states = step.optimizer().state_names();
  for (const FlatSegment& segment : step.executor().layout().segments) {
    items_.push_back({&segment, model_slot, segment.name, 0});
    if (!segment.is_trained()) continue;
    for (std::size_t slot = 0; slot < states.size(); ++slot)
      items_.push_back(
          {&segment, static_cast<int>(slot), "optimizer." + states[slot] + "." + segment.name, 0});
  }
  deal_out(writers);
  plan_exchange();
  take_memory();
}

StateSnapshot::~StateSnapshot() = default;

void StateSnapshot::deal_out(const std::vector<int>& writers) {
  // The largest first, each to the writer with the least so far: the same on every rank. The model by itself,
  // since the best weights are saved without the optimizer.
  std::vector<std::size_t> order(items_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto size = [&](std::size_t i) { return items_[i].segment->storage.size(); };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(items_[a].kind(), -size(a)) < std::pair(items_[b].kind(), -size(b));
  });
  std::set<std::pair<std::int64_t, int>> loads;
  for (const int writer : writers) loads.emplace(0, writer);
  for (const std::size_t i : order) {
    const auto [load, writer] = *loads.begin();
    loads.erase(loads.begin());
    loads.emplace(load + size(i), writer);
    items_[i].writer = writer;
  }
  std::map<int, std::int64_t> used;
  for (Item& item : items_) {
    item.at = used[item.writer];
    used[item.writer] += item.segment->storage.size();
  }
  elements_ = used[comm_.rank()];
}

void StateSnapshot::plan_exchange() {
  const std::vector<std::vector<Range>> shards = gather_shards(comm_, step_.optimizer());
  // Not sharded: every rank holds everything.
  const bool replicas =
      std::all_of(shards.begin(), shards.end(), [&](const auto& s) { return s == shards[0]; });
  struct Held {
    Range range;
    int rank;
  };
  std::vector<Held> held;
  for (std::size_t r = 0; r < shards.size(); ++r) {
    for (const Range& range : shards[r]) held.push_back({range, static_cast<int>(r)});
    if (replicas) break;
  }
  std::sort(held.begin(), held.end(),
            [](const Held& a, const Held& b) { return a.range.begin < b.range.begin; });

  for (int r = 0; r < comm_.size(); ++r) {
    peers_.push_back(std::make_unique<Peer>());
    peers_.back()->rank = r;
  }
  for (const Item& item : items_) {
    if (item.slot == model_slot) continue;
    std::int64_t covered = 0;
    for (const Held& h : held) {
      const Range common{std::max(h.range.begin, item.segment->storage.begin),
                         std::min(h.range.end, item.segment->storage.end)};
      if (common.size() <= 0) continue;
      covered += common.size();
      const int holder = replicas ? item.writer : h.rank;
      const Piece piece{item.slot, common, item.at + common.begin - item.segment->storage.begin};
      if (holder == comm_.rank() && item.writer == comm_.rank()) own_.push_back(piece);
      if (holder == comm_.rank() && item.writer != comm_.rank())
        peers_[static_cast<std::size_t>(item.writer)]->outgoing.push_back(piece);
      if (holder != comm_.rank() && item.writer == comm_.rank())
        peers_[static_cast<std::size_t>(holder)]->incoming.push_back(piece);
    }
    require(covered == item.segment->storage.size(), "the shards of the optimizer do not tile its state");
  }
  std::erase_if(peers_, [](const auto& p) { return p->outgoing.empty() && p->incoming.empty(); });
}

void StateSnapshot::take_memory() {
  for (const auto& peer : peers_) {
    peer->send_memory = HostBuffer(Peer::bytes(peer->outgoing));
    peer->receive_memory = HostBuffer(Peer::bytes(peer->incoming));
    if (!peer->outgoing.empty())
      peer->send = comm_.make_send(std::as_bytes(peer->send_memory.as<float>()), peer->rank, exchange_tag);
    if (!peer->incoming.empty())
      peer->receive = comm_.make_receive(std::as_writable_bytes(peer->receive_memory.as<float>()), peer->rank,
                                         exchange_tag);
  }
  memory_ = HostBuffer(at(elements_) * sizeof(float));
}

void StateSnapshot::take(bool optimizer, std::span<const float> given) {
  const Optimizer& state = step_.optimizer();
  const auto stored = [&](const Piece& p) { return state.state(static_cast<std::size_t>(p.slot), p.range); };
  const std::span<float> memory = memory_.as<float>();
  const auto place = [&](const Piece& p) { return memory.subspan(at(p.at), at(p.range.size())); };
  if (optimizer) {
    lanes_.run([&](int lane) {
      for (const auto& peer : peers_) {
        std::span<float> to = peer->send_memory.as<float>();
        for (const Piece& p : peer->outgoing) {
          copy_share(stored(p), to.first(at(p.range.size())), lane, lanes_.size());
          to = to.subspan(at(p.range.size()));
        }
      }
    });
    for (const auto& peer : peers_) {
      if (peer->receive) peer->receive->start();
    }
    for (const auto& peer : peers_) {
      if (peer->send) peer->send->start();
    }
  }
  const std::span<const float> parameters = given.empty() ? step_.parameters() : given;
  lanes_.run([&](int lane) {
    for (const Item& item : items_) {
      if (item.writer != comm_.rank() || item.slot != model_slot) continue;
      const Range storage = item.segment->storage;
      copy_share(parameters.subspan(at(storage.begin), at(storage.size())),
                 memory.subspan(at(item.at), at(storage.size())), lane, lanes_.size());
    }
    if (!optimizer) return;
    for (const Piece& p : own_) copy_share(stored(p), place(p), lane, lanes_.size());
  });
  if (!optimizer) return;
  const auto complete = [&](const std::unique_ptr<PersistentRequest>& request) {
    if (!request || request->test()) return;
    const FlightScope scope(comm_.recorder(), Activity::message);
    unsigned spins = 0;
    while (!request->test()) {
      comm_.poll();
      relax(spins);
    }
  };
  for (const auto& peer : peers_) {
    complete(peer->receive);
    lanes_.run([&](int lane) {
      std::span<const float> from = std::as_const(peer->receive_memory).as<float>();
      for (const Piece& p : peer->incoming) {
        copy_share(from.first(at(p.range.size())), place(p), lane, lanes_.size());
        from = from.subspan(at(p.range.size()));
      }
    });
  }
  for (const auto& peer : peers_) complete(peer->send);
}

std::vector<TensorEntry> StateSnapshot::entries(PartKind kind, int writer) const {
  std::vector<TensorEntry> list;
  for (const Item& item : items_) {
    if (item.kind() == kind && item.writer == writer) list.push_back({item.name, item.segment->shape});
  }
  return list;
}

ManifestFile StateSnapshot::part(PartKind kind, int writer) const {
  std::set<int> writers;
  ManifestFile file;
  for (const Item& item : items_) {
    if (item.kind() != kind) continue;
    writers.insert(item.writer);
    if (item.writer == writer) file.tensors.emplace(item.name, item.segment->shape);
  }
  // An optimizer without state has a file that says so.
  if (writers.empty()) writers.insert(0);
  if (writers.count(writer) == 0) return file;
  const auto number = std::distance(writers.begin(), writers.find(writer));
  file.name = part_name(kind, number, static_cast<std::int64_t>(writers.size()));
  return file;
}

std::uint64_t StateSnapshot::total_bytes(bool optimizer) const {
  std::uint64_t bytes = 0;
  for (int r = 0; r < comm_.size(); ++r) {
    for (const PartKind kind : {PartKind::model, PartKind::optimizer}) {
      if (kind == PartKind::optimizer && !optimizer) continue;
      const std::vector<TensorEntry> list = entries(kind, r);
      if (!list.empty()) bytes += safetensors_bytes(list, metadata_of(kind));
    }
  }
  return bytes;
}

ManifestFile StateSnapshot::write_part(PartKind kind, const std::string& directory,
                                       const std::atomic<bool>& cancelled) const {
  ManifestFile file = part(kind, comm_.rank());
  std::vector<const Item*> mine;
  std::int64_t longest = 0;
  for (const Item& item : items_) {
    if (item.kind() != kind || item.writer != comm_.rank()) continue;
    mine.push_back(&item);
    longest = std::max(longest, item.segment->shape.elements());
  }
  std::vector<float> plain(at(longest));
  const WrittenFile written = write_new_safetensors(
      directory + "/" + file.name, entries(kind, comm_.rank()), metadata_of(kind), [&](std::size_t i) {
        if (cancelled.load(std::memory_order_relaxed)) throw InputError("the job ends");
        const Item& item = *mine[i];
        const std::span<float> out = std::span(plain).first(at(item.segment->shape.elements()));
        step_.executor().export_plain(
            *item.segment, memory_.as<float>().subspan(at(item.at), at(item.segment->storage.size())), out);
        return std::span<const float>(out);
      });
  file.bytes = written.bytes;
  file.sha256 = written.sha256;
  return file;
}

}  // namespace lockstep
