#include "comm/sync/collective_plan.h"

#include <algorithm>
#include <fmt/format.h>

#include "comm/sync/bucket_plan.h"
#include "core/error.h"

namespace lockstep {
namespace {

using Kind = CollectiveOp::Kind;
using Buffer = CollectiveOp::Buffer;

std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

CollectiveOp mark(Kind kind, std::int64_t bucket) {
  CollectiveOp op;
  op.kind = kind;
  op.bucket = bucket;
  return op;
}

CollectiveOp on(Kind kind, std::int64_t bucket, Buffer buffer, std::int64_t offset, std::int64_t count,
                std::size_t slot = 0, int peer = -1) {
  return {kind, buffer, static_cast<std::int32_t>(slot), peer, bucket, offset, count};
}

}  // namespace

EvenBuckets::EvenBuckets(std::int64_t elements, std::int64_t bucket_elements, int ranks)
    : elements_(elements), ranks_(ranks) {
  require(elements >= 0 && bucket_elements >= 0 && ranks > 0, "EvenBuckets: bad sizes");
  const std::int64_t unit = block_elements * ranks;
  padded_ = round_up(elements, unit);
  bucket_elements_ = std::max(
      bucket_elements == 0 || bucket_elements > padded_ ? padded_ : round_up(bucket_elements, unit), unit);
  buckets_ = (padded_ + bucket_elements_ - 1) / bucket_elements_;
}

Range EvenBuckets::padded(std::int64_t b) const {
  return {b * bucket_elements_, std::min((b + 1) * bucket_elements_, padded_)};
}

Range EvenBuckets::bucket(std::int64_t b) const {
  const Range whole = padded(b);
  return {std::min(whole.begin, elements_), std::min(whole.end, elements_)};
}

Range EvenBuckets::chunk(std::int64_t b, int rank) const {
  const Range whole = padded(b);
  const std::int64_t size = whole.size() / ranks_;
  return {whole.begin + rank * size, whole.begin + (rank + 1) * size};
}

std::vector<Range> EvenBuckets::shard(int rank) const {
  std::vector<Range> ranges;
  for (std::int64_t b = 0; b < buckets_; ++b) {
    Range range = chunk(b, rank);
    range.end = std::min(range.end, elements_);
    if (range.begin >= range.end) continue;
    if (!ranges.empty() && ranges.back().end == range.begin) {
      ranges.back().end = range.end;
    } else {
      ranges.push_back(range);
    }
  }
  return ranges;
}

CollectivePlan::CollectivePlan(const CollectivePlanOptions& o)
    : buckets(o.elements, o.sync.bucket_elements, o.ranks),
      subtrees(subtrees_of_rank(o.sync.slices, o.rank, o.ranks)),
      ranks_(o.ranks) {
  require(o.sync.slices >= o.ranks, "CollectivePlan: more ranks than slices");
  if (o.sync.finite_marks) marked_blocks = buckets.padded_elements() / block_elements;
  if (o.sync.block_values) value_blocks = buckets.padded_elements() / block_elements;
  const bool ordered = o.sync.reduction == Reduction::ordered;
  if (ordered) {
    std::vector<Node> parts;
    for (int r = 0; r < o.ranks; ++r) {
      if (r == o.rank) own_first = static_cast<std::int32_t>(parts.size());
      for (const Node& node : subtrees_of_rank(o.sync.slices, r, o.ranks)) parts.push_back(node);
    }
    program = merge_program(completion_program(o.sync.slices, parts));
    for (std::int64_t b = 0; b < buckets.buckets(); ++b)
      received_stride = std::max(received_stride, buckets.chunk(b, o.rank).size());
    received_elements = static_cast<std::int64_t>(parts.size() - subtrees.size()) * received_stride;
  } else {
    program = chain_program(subtrees.size());
  }
  gradients.resize(static_cast<std::size_t>(buckets.buckets()));
  for (std::int64_t b = 0; b < buckets.buckets(); ++b) {
    if (ordered) {
      plan_ordered(o, b);
    } else {
      plan_fast(o, b);
    }
    if (o.sync.finite_marks) plan_marks(o, b);
  }
  if (o.ranks == 1 || !o.sync.sharded) return;
  if (o.sync.block_values) plan_block_values(o);
  plan_parameters(o);
}

void CollectivePlan::plan_ordered(const CollectivePlanOptions& o, std::int64_t b) {
  std::vector<CollectiveOp>& ops = gradients[static_cast<std::size_t>(b)];
  const Range mine = buckets.chunk(b, o.rank);
  if (o.ranks > 1) {
    ops.push_back(mark(Kind::enter, b));
    ops.push_back(mark(Kind::group_begin, b));
    std::int64_t foreign = 0;
    for (int peer = 0; peer < o.ranks; ++peer) {
      if (peer == o.rank) continue;
      const Range theirs = buckets.chunk(b, peer);
      for (std::size_t slot = 0; slot < subtrees.size(); ++slot)
        ops.push_back(on(Kind::send, b, Buffer::slot, theirs.begin, theirs.size(), slot, peer));
      for (std::size_t i = subtrees_of_rank(o.sync.slices, peer, o.ranks).size(); i > 0; --i)
        ops.push_back(
            on(Kind::receive, b, Buffer::received, received_stride * foreign++, mine.size(), 0, peer));
    }
    ops.push_back(mark(Kind::group_end, b));
    ops.push_back(mark(Kind::leave, b));
  }
  if (program.merges.size() > 1) ops.push_back(on(Kind::complete, b, Buffer::slot, mine.begin, mine.size()));
  if (o.ranks > 1 && !o.sync.sharded) {
    ops.push_back(mark(Kind::enter, b));
    ops.push_back(on(Kind::all_gather, b, Buffer::slot, buckets.padded(b).begin, mine.size()));
    ops.push_back(mark(Kind::leave, b));
  }
}

void CollectivePlan::plan_fast(const CollectivePlanOptions& o, std::int64_t b) {
  std::vector<CollectiveOp>& ops = gradients[static_cast<std::size_t>(b)];
  const Range whole = buckets.padded(b);
  if (program.merges.size() > 1)
    ops.push_back(on(Kind::complete, b, Buffer::slot, whole.begin, whole.size()));
  if (o.ranks == 1) return;
  ops.push_back(mark(Kind::enter, b));
  ops.push_back(on(Kind::all_reduce, b, Buffer::slot, whole.begin, whole.size()));
  ops.push_back(mark(Kind::leave, b));
}

void CollectivePlan::plan_marks(const CollectivePlanOptions& o, std::int64_t b) {
  // Where every rank has all totals, each marks all blocks: that is cheaper than to exchange the marks.
  const bool all_here = o.ranks == 1 || !o.sync.sharded || o.sync.reduction == Reduction::fast;
  const Range range = all_here ? buckets.padded(b) : buckets.chunk(b, o.rank);
  gradients[static_cast<std::size_t>(b)].push_back(
      on(Kind::mark_finite, b, Buffer::slot, range.begin, range.size()));
  if (all_here) return;
  if (finish.empty()) {
    finish.push_back(mark(Kind::enter, b));
    finish.push_back(mark(Kind::group_begin, b));
    finish.push_back(mark(Kind::group_end, b));
    finish.push_back(mark(Kind::leave, b));
  }
  finish.insert(finish.end() - 2,
                on(Kind::all_gather, b, Buffer::marks, buckets.padded(b).begin / block_elements,
                   range.size() / block_elements));
}

void CollectivePlan::plan_block_values(const CollectivePlanOptions& o) {
  if (buckets.buckets() == 0) return;
  block_values.push_back(mark(Kind::enter, 0));
  block_values.push_back(mark(Kind::group_begin, 0));
  for (std::int64_t b = 0; b < buckets.buckets(); ++b)
    block_values.push_back(on(Kind::all_gather, b, Buffer::block_values,
                              buckets.padded(b).begin / block_elements,
                              buckets.chunk(b, o.rank).size() / block_elements));
  block_values.push_back(mark(Kind::group_end, 0));
  block_values.push_back(mark(Kind::leave, 0));
}

void CollectivePlan::plan_parameters(const CollectivePlanOptions& o) {
  if (buckets.buckets() == 0) return;
  parameters.push_back(mark(Kind::enter, 0));
  parameters.push_back(mark(Kind::group_begin, 0));
  for (std::int64_t b = 0; b < buckets.buckets(); ++b)
    parameters.push_back(on(Kind::all_gather, b, Buffer::parameters, buckets.padded(b).begin,
                            buckets.chunk(b, o.rank).size()));
  parameters.push_back(mark(Kind::group_end, 0));
  parameters.push_back(mark(Kind::leave, 0));
}

std::int64_t CollectivePlan::entries() const {
  std::int64_t count = 0;
  const auto add = [&](const std::vector<CollectiveOp>& ops) {
    count +=
        std::count_if(ops.begin(), ops.end(), [](const CollectiveOp& op) { return op.kind == Kind::enter; });
  };
  for (const auto& ops : gradients) add(ops);
  add(finish);
  add(block_values);
  add(parameters);
  return count;
}

std::int64_t CollectivePlan::sent_bytes() const {
  std::int64_t bytes = 0;
  const auto add = [&](const std::vector<CollectiveOp>& ops) {
    for (const CollectiveOp& op : ops) {
      const bool wide = op.buffer == Buffer::marks || op.buffer == Buffer::block_values;
      const std::int64_t size = op.count * static_cast<std::int64_t>(wide ? sizeof(double) : sizeof(float));
      if (op.kind == Kind::send) bytes += size;
      if (op.kind == Kind::all_gather) bytes += size * (ranks_ - 1);
      if (op.kind == Kind::all_reduce) bytes += 2 * size * (ranks_ - 1) / ranks_;
    }
  };
  for (const auto& ops : gradients) add(ops);
  add(finish);
  add(block_values);
  add(parameters);
  return bytes;
}

void run_collectives(const std::vector<CollectiveOp>& ops, const CollectivePlan& plan,
                     const CollectiveBuffers& at, CollectiveBackend& backend) {
  const auto floats = [&](const CollectiveOp& op) -> float* {
    switch (op.buffer) {
      case Buffer::slot:
        return at.slots + op.slot * at.slot_stride + op.offset;
      case Buffer::received:
        return at.received + op.offset;
      case Buffer::parameters:
        return at.parameters + op.offset;
      case Buffer::marks:
      case Buffer::block_values:
      case Buffer::none:
        break;
    }
    throw InternalError("run_collectives: an operation without a buffer of floats");
  };
  for (const CollectiveOp& op : ops) {
    const auto count = static_cast<std::size_t>(op.count);
    switch (op.kind) {
      case Kind::enter:
        backend.enter(op.bucket);
        break;
      case Kind::leave:
        backend.leave(op.bucket);
        break;
      case Kind::group_begin:
        backend.group_begin();
        break;
      case Kind::group_end:
        backend.group_end();
        break;
      case Kind::send:
        backend.send(floats(op), count, op.peer);
        break;
      case Kind::receive:
        backend.receive(floats(op), count, op.peer);
        break;
      case Kind::complete: {
        const CompletionOperands from{floats(op),     at.slot_stride,
                                      plan.own_first, static_cast<std::int32_t>(plan.subtrees.size()),
                                      at.received,    plan.received_stride};
        backend.complete(from, plan.program, op.count, floats(op));
        break;
      }
      case Kind::mark_finite:
        backend.mark_finite(floats(op), op.count, at.marks + op.offset / block_elements);
        break;
      case Kind::all_gather:
        if (op.buffer == Buffer::marks) {
          backend.all_gather(at.marks + op.offset, count);
        } else if (op.buffer == Buffer::block_values) {
          backend.all_gather(at.block_values + op.offset, count);
        } else {
          backend.all_gather(floats(op), count);
        }
        break;
      case Kind::all_reduce:
        backend.all_reduce_sum(floats(op), count);
        break;
    }
  }
}

std::string text_of(const CollectiveOp& op) {
  constexpr const char* kinds[] = {"enter",     "leave",    "group",       "send",       "receive",
                                   "group end", "complete", "mark finite", "all-gather", "all-reduce"};
  constexpr const char* buffers[] = {"", "slot", "received", "parameters", "marks", "block values"};
  std::string text = fmt::format("{} {}", op.bucket, kinds[static_cast<std::size_t>(op.kind)]);
  if (op.buffer != Buffer::none) text += fmt::format(" {}", buffers[static_cast<std::size_t>(op.buffer)]);
  if (op.buffer == Buffer::slot) text += fmt::format(" {}", op.slot);
  if (op.count > 0) text += fmt::format(" [{}, {})", op.offset, op.offset + op.count);
  if (op.peer >= 0) text += fmt::format(" {} {}", op.kind == Kind::send ? "to" : "from", op.peer);
  return text;
}

}  // namespace lockstep
