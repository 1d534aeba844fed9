#include "comm/sync/sync_base.h"

#include <algorithm>
#include <fmt/format.h>

#include "comm/sync/fast_sync.h"
#include "comm/sync/ordered_sync.h"
#include "core/counted.h"
#include "core/error.h"
#include "core/flight_recorder.h"

namespace lockstep {
namespace {

std::int64_t most_subtrees(std::int64_t slices, int ranks) {
  std::size_t most = 1;
  for (int r = 0; r < ranks; ++r) most = std::max(most, subtrees_of_rank(slices, r, ranks).size());
  return static_cast<std::int64_t>(most);
}

SyncWindow::Sizes window_sizes(const BucketPlan& plan, std::int64_t slices, int ranks) {
  return {plan.elements(), most_subtrees(slices, ranks), plan.buckets(), plan.blocks()};
}

}  // namespace

void require_enough_slices(const Communicator& comm, std::int64_t slices) {
  if (slices >= comm.size()) return;
  const auto refuse = [&] {
    throw ConfigError(fmt::format("{} cannot share {}: start at most {}, or set train.slices to at least {}",
                                  counted(comm.size(), "rank"), counted(slices, "slice"),
                                  counted(slices, "rank"), comm.size()));
  };
  report_once(comm, refuse);
}

std::size_t gradient_sync_shared_bytes(std::int64_t elements, const GradientSyncOptions& options, int ranks) {
  const BucketPlan plan(elements, options.bucket_elements, Topology{0, 1, {0}, {0, 1}});
  return window_sizes(plan, options.slices, ranks).bytes();
}

std::unique_ptr<GradientSync> GradientSync::create(Communicator& comm, std::int64_t elements,
                                                   const GradientSyncOptions& options, Timeline* timeline) {
  require_enough_slices(comm, options.slices);
  if (options.reduction == Reduction::fast)
    return std::make_unique<FastSync>(comm, elements, options, timeline);
  return std::make_unique<OrderedSync>(comm, elements, options, timeline);
}

/// Holds the right to advance the exchange of this rank.
class SyncBase::Guard {
 public:
  explicit Guard(std::atomic_flag& busy) : busy_(busy) {}
  ~Guard() {
    if (held_) busy_.clear(std::memory_order_release);
  }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
  bool try_lock() { return held_ = !busy_.test_and_set(std::memory_order_acquire); }
  void lock() {
    unsigned spins = 0;
    while (!try_lock()) relax(spins);
  }

 private:
  std::atomic_flag& busy_;
  bool held_ = false;
};

SyncBase::SyncBase(Communicator& comm, std::int64_t elements, const GradientSyncOptions& options,
                   Timeline* timeline)
    : comm_(comm),
      options_(options),
      timeline_(timeline),
      plan_(elements, options.bucket_elements, comm.topology()),
      subtrees_(subtrees_of_rank(options.slices, comm.rank(), comm.size())),
      window_(comm, window_sizes(plan_, options.slices, comm.size())),
      parameters_(comm, plan_, window_, options.sharded),
      missing_(std::make_unique<std::atomic<std::int64_t>[]>(static_cast<std::size_t>(plan_.buckets()))) {
  if (options_.sharded) {
    shard_ = plan_.shard(comm.rank());
  } else if (elements > 0) {
    shard_ = {{0, elements}};
  }
  if (options_.finite_marks) marks_.resize(static_cast<std::size_t>(plan_.blocks()));
  if (!options_.block_values) return;
  block_values_.resize(static_cast<std::size_t>(plan_.blocks()));
  if (options_.sharded && comm.size() > 1) block_gather_ = std::make_unique<BlockGather>(comm, shard_);
}

std::span<float> SyncBase::slot(std::size_t i) {
  require(i < subtrees_.size(), "GradientSync::slot: no such slot");
  return {window_.slot(comm_.rank(), static_cast<std::int64_t>(i)),
          static_cast<std::size_t>(plan_.elements())};
}

std::span<float> SyncBase::parameters() {
  return {window_.parameters(comm_.rank()), static_cast<std::size_t>(plan_.elements())};
}

void SyncBase::gather_block_values() {
  if (block_gather_) block_gather_->run(block_values_);
}

int SyncBase::first_of_group() const {
  return comm_.rank() - comm_.topology().local_rank();
}

int SyncBase::end_of_group() const {
  return first_of_group() + comm_.topology().group_size(comm_.topology().group());
}

bool SyncBase::group_reached(SharedCounter SyncWindow::Counters::*which, std::uint64_t value) const {
  for (int r = first_of_group(); r < end_of_group(); ++r) {
    if (!(window_.counters(r).*which).reached(value)) return false;
  }
  return true;
}

bool SyncBase::messages_due() {
  const auto t = std::chrono::steady_clock::now();
  if (t - last_asked_ < std::chrono::microseconds(20)) return false;
  last_asked_ = t;
  return true;
}

void SyncBase::record(EventKind kind, std::int64_t bucket, std::int64_t begin_ns) {
  // The exchange belongs to no lane: whichever came by did it.
  if (timeline_ != nullptr && timeline_->enabled())
    timeline_->record(kind, -1, step_, bucket, begin_ns, timeline_->now());
}

void SyncBase::tick() {
  if (FlightRecorder* recorder = comm_.recorder()) recorder->tick();
}

void SyncBase::note_exchanged(std::int64_t bucket) {
  FlightRecorder* recorder = comm_.recorder();
  if (recorder == nullptr) return;
  recorder->note(Activity::exchange, step_, bucket,
                 static_cast<std::uint64_t>(plan_.bucket(bucket).size()) * sizeof(float), exchange_ns_);
  exchange_ns_ = FlightRecorder::now();
}

void SyncBase::begin_step(std::int64_t step) {
  require(!open_, "GradientSync::begin_step: the last step was not finished");
  Guard guard(busy_);
  guard.lock();
  step_ = step;
  FlightRecorder* recorder = comm_.recorder();
  if (recorder != nullptr) {
    recorder->set_step(step);
    exchange_ns_ = FlightRecorder::now();
  }
  const FlightScope scope(recorder, Activity::begin_step);
  ++epoch_;
  window_.counters(comm_.rank()).entered.publish(epoch_);
  // Peers read this rank's slots until they have completed their chunks and, unless sharded, its totals until
  // they begin their next step. They copy its parameters until they have gathered them.
  wait_until(
      [&] {
        return (options_.sharded ? group_reached(&SyncWindow::Counters::finished, epoch_ - 1)
                                 : group_reached(&SyncWindow::Counters::entered, epoch_)) &&
               parameters_.gathered_by_group();
      },
      [] { return false; });
  for (std::int64_t b = 0; b < plan_.buckets(); ++b) {
    missing_[static_cast<std::size_t>(b)].store(plan_.bucket(b).size(), std::memory_order_relaxed);
  }
  step_begun();
  open_ = true;
}

void SyncBase::ready(Range range) {
  require(open_ && range.begin >= 0 && range.begin <= range.end && range.end <= plan_.elements(),
          "GradientSync::ready: outside of a step or of the gradient");
  if (range.size() == 0) return;
  for (std::int64_t b = plan_.bucket_of(range.begin); b <= plan_.bucket_of(range.end - 1); ++b) {
    const Range whole = plan_.bucket(b);
    const std::int64_t part = std::min(range.end, whole.end) - std::max(range.begin, whole.begin);
    // Release what this lane wrote; the lane that completes the bucket acquires what all of them wrote.
    const std::int64_t left =
        missing_[static_cast<std::size_t>(b)].fetch_sub(part, std::memory_order_acq_rel) - part;
    require(left >= 0, "GradientSync::ready: a range was said to be ready twice");
    if (left == 0) window_.ready(comm_.rank(), b).publish(epoch_);
  }
}

void SyncBase::progress() {
  if (!options_.overlap) return;
  Guard guard(busy_);
  if (guard.try_lock() && open_ && may_advance()) advance();
}

void SyncBase::finish() {
  require(open_, "GradientSync::finish: no step was begun");
  for (std::int64_t b = 0; b < plan_.buckets(); ++b) {
    require(ready_here(b), "GradientSync::finish: a part of the gradient was not said to be ready");
  }
  Guard guard(busy_);
  guard.lock();
  FlightRecorder* recorder = comm_.recorder();
  const FlightScope scope(recorder, Activity::exchange,
                          static_cast<std::uint64_t>(plan_.elements()) * sizeof(float));
  wait_until(
      [&] {
        if (recorder != nullptr) recorder->at_bucket(pending_bucket());
        return complete();
      },
      [&] { return advance(); });
  window_.counters(comm_.rank()).finished.publish(epoch_);
  step_completed();
  open_ = false;
}

void SyncBase::publish_parameters() {
  parameters_.publish();
}

void SyncBase::gather_parameters(int lane, int lanes) {
  const std::int64_t begin = now();
  parameters_.gather(lane, lanes);
  if (options_.sharded && timeline_ != nullptr && timeline_->enabled()) {
    timeline_->record(EventKind::gather, lane, step_, 0, begin, timeline_->now());
  }
}

}  // namespace lockstep
