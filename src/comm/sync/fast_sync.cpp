#include "comm/sync/fast_sync.h"

#include <algorithm>

namespace lockstep {
namespace {

/// ((0 + 1) + 2) + …: this rank's slots from left to right.
std::vector<TreeOp> chain(std::size_t operands) {
  std::vector<TreeOp> program = {{0}};
  for (std::size_t i = 1; i < operands; ++i) {
    program.push_back({static_cast<std::int32_t>(i)});
    program.push_back({-1});
  }
  return program;
}

}  // namespace

FastSync::FastSync(Communicator& comm, std::int64_t elements, const GradientSyncOptions& options,
                   Timeline* timeline)
    : SyncBase(comm, elements, options, timeline),
      program_(chain(subtrees_.size())),
      marks_program_(chain(1)),
      under_way_(static_cast<std::size_t>(buckets())),
      begun_ns_(static_cast<std::size_t>(buckets())) {
  for (std::size_t i = 0; i < subtrees_.size(); ++i) operands_.push_back(slot(i).data());
  for (const Range& range : shard_) totals_.push_back({range, operands_[0] + range.begin});
  const std::int64_t bytes = elements * static_cast<std::int64_t>(sizeof(float));
  traffic_.sent_bytes = 2 * bytes * (comm.size() - 1) / comm.size();
  for (int r = 0; r < comm.size(); ++r) {
    traffic_.subtrees =
        std::max(traffic_.subtrees,
                 static_cast<std::int64_t>(subtrees_of_rank(options.slices, r, comm.size()).size()));
  }
  if (options.sharded) {
    traffic_.sent_bytes += parameters_.sent_bytes();
    traffic_.window_bytes += parameters_.window_bytes();
  }
  comm.barrier();
}

void FastSync::step_begun() {
  started_ = completed_ = 0;
}

bool FastSync::may_advance() {
  return (started_ < buckets() && ready_here(started_)) || (completed_ < started_ && messages_due());
}

bool FastSync::advance() {
  bool did = false;
  if (started_ < buckets() && ready_here(started_)) {
    const auto b = static_cast<std::size_t>(started_);
    const Range range = bucket(started_);
    begun_ns_[b] = now();
    float* sum = slot(0).data() + range.begin;
    program_.run(operands_, range.begin, range.size(), sum, nullptr);
    if (!program_.is_copy()) record(EventKind::reduce, started_, begun_ns_[b]);
    if (comm_.size() > 1)
      under_way_[b] = comm_.start_all_reduce_sum({sum, static_cast<std::size_t>(range.size())});
    ++started_;
    did = true;
  }
  while (completed_ < started_) {
    const auto b = static_cast<std::size_t>(completed_);
    if (under_way_[b] != nullptr && !under_way_[b]->test()) break;
    under_way_[b].reset();
    note_exchanged(completed_);
    record(EventKind::exchange, completed_++, begun_ns_[b]);
    did = true;
  }
  return did;
}

void FastSync::step_completed() {
  if (!options_.finite_marks) return;
  marks_program_.run({operands_.data(), 1}, 0, plan_.elements(), slot(0).data(), marks_.data());
}

}  // namespace lockstep
