#include "comm/sync/ordered_sync.h"

#include <algorithm>

#include "core/error.h"
#include "core/flight_recorder.h"

namespace lockstep {
namespace {

/// Summed in one go, so that a lane that helps out between two kernels is soon back: some 20 to 40
/// microseconds.
constexpr std::int64_t piece_elements = 16 * block_elements;

}  // namespace

bool OrderedSync::group_ready(std::int64_t b) {
  // One rank is usually behind the others: ask for that one first.
  if (!window_.ready(last_missing_, b).reached(epoch_)) return false;
  for (int r = first_of_group(); r < end_of_group(); ++r) {
    if (!window_.ready(r, b).reached(epoch_)) {
      last_missing_ = r;
      return false;
    }
  }
  return true;
}

void OrderedSync::step_begun() {
  ready_bucket_ = reduce_bucket_ = recorded_ = 0;
  carried_next_ = totals_awaited_ = 0;
  carried_at_ = reduce_at_ = 0;
  for (RequestChain* chain : {&incoming_, &outgoing_, &total_in_, &total_out_, &marks_in_, &marks_out_}) {
    chain->rewind();
  }
  incoming_.start_until(incoming_.size());
}

bool OrderedSync::may_advance() {
  if (ready_bucket_ < buckets() && group_ready(ready_bucket_)) return true;
  if (reduce_bucket_ < ready_bucket_ &&
      incoming_.completed() >= own_[static_cast<std::size_t>(reduce_bucket_)].incoming_end) {
    return true;
  }
  return comm_.topology().groups() > 1 && messages_due();
}

bool OrderedSync::advance() {
  bool did = comm_.topology().groups() > 1 && drive_messages();
  if (ready_bucket_ < buckets() && group_ready(ready_bucket_)) did = carry_piece() || did;
  if (reduce_bucket_ < ready_bucket_ &&
      incoming_.completed() >= own_[static_cast<std::size_t>(reduce_bucket_)].incoming_end) {
    did = reduce_piece() || did;
  }
  record_completed();
  return did;
}

bool OrderedSync::drive_messages() {
  bool did = false;
  for (RequestChain* chain : {&incoming_, &outgoing_, &total_in_, &total_out_, &marks_in_, &marks_out_}) {
    if (!chain->done()) did = chain->drive() || did;
  }
  if (!options_.sharded) {
    // The totals come to where subtree sums were sent from, so those must have left.
    while (totals_awaited_ < carried_next_ &&
           outgoing_.completed() >= carried_[totals_awaited_].outgoing_end) {
      total_in_.start_until(carried_[totals_awaited_++].total_in_end);
      did = true;
    }
  }
  return did;
}

bool OrderedSync::carry_piece() {
  const auto b = static_cast<std::size_t>(ready_bucket_);
  if (carried_next_ == (b == 0 ? 0 : carried_end_[b - 1]) && carried_at_ == 0) begun_ns_[b] = now();
  if (carried_next_ == carried_end_[b]) {
    ++ready_bucket_;
    // Peers have passed the end of the last step when all of this one's buckets are ready: only then may the
    // marks that they read be replaced.
    if (ready_bucket_ == buckets()) marks_in_.start_until(marks_in_.size());
    return true;
  }
  const Carried& c = carried_[carried_next_];
  const std::int64_t n = std::min(piece_elements, c.range.size() - carried_at_);
  const std::int64_t begin = now();
  bool summed = false;
  for (std::size_t j = 0; j < group_subtrees_.size(); ++j) {
    if (c.sums[j] == nullptr) continue;
    const OwnWork adding(comm_.recorder());
    const GroupSubtree& subtree = group_subtrees_[j];
    subtree.program.run(subtree.operands, c.range.begin + carried_at_, n, c.sums[j] + carried_at_, nullptr);
    summed = true;
  }
  if (summed) record(EventKind::reduce, c.bucket, begin);
  carried_at_ = summed ? carried_at_ + n : c.range.size();
  if (carried_at_ == c.range.size()) {
    outgoing_.start_until(c.outgoing_end);
    carried_at_ = 0;
    ++carried_next_;
  }
  return true;
}

bool OrderedSync::reduce_piece() {
  const Own& own = own_[static_cast<std::size_t>(reduce_bucket_)];
  const std::int64_t n = std::min(piece_elements, own.range.size() - reduce_at_);
  if (n > 0) {
    const OwnWork adding(comm_.recorder());
    const std::int64_t begin = now();
    double* marks = options_.finite_marks ? own.marks + reduce_at_ / block_elements : nullptr;
    program_.run(own.operands, reduce_at_, n, window_.slot(comm_.rank(), 0) + own.range.begin + reduce_at_,
                 marks);
    record(EventKind::reduce, reduce_bucket_, begin);
    reduce_at_ += n;
  }
  if (reduce_at_ == own.range.size()) {
    total_out_.start_until(own.total_out_end);
    reduce_at_ = 0;
    ++reduce_bucket_;
    if (reduce_bucket_ == buckets()) marks_out_.start_until(marks_out_.size());
  }
  return true;
}

void OrderedSync::record_completed() {
  while (recorded_ < reduce_bucket_) {
    const auto b = static_cast<std::size_t>(recorded_);
    const std::size_t carried = carried_end_[b];
    if (total_out_.completed() < own_[b].total_out_end) return;
    if (carried > 0) {
      if (outgoing_.completed() < carried_[carried - 1].outgoing_end) return;
      if (!options_.sharded && total_in_.completed() < carried_[carried - 1].total_in_end) return;
    }
    note_exchanged(recorded_);
    record(EventKind::exchange, recorded_++, begun_ns_[b]);
  }
}

bool OrderedSync::complete() const {
  return reduce_bucket_ == buckets() && incoming_.done() && outgoing_.done() && total_in_.done() &&
         total_out_.done() && marks_in_.done() && marks_out_.done();
}

void OrderedSync::step_completed() {
  if (options_.sharded && !options_.finite_marks) return;
  wait_until([&] { return group_reached(&SyncWindow::Counters::finished, epoch_); }, [] { return false; });
  for (const MarksPart& part : marks_parts_) {
    const std::int64_t blocks = (part.range.size() + block_elements - 1) / block_elements;
    std::copy_n(part.from, blocks, marks_.begin() + part.range.begin / block_elements);
  }
}

}  // namespace lockstep
