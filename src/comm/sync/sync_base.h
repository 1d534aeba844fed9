#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/sync/block_gather.h"
#include "comm/sync/bucket_plan.h"
#include "comm/sync/gradient_sync.h"
#include "comm/sync/parameter_exchange.h"
#include "comm/sync/sync_window.h"
#include "device/lane_pool.h"

namespace lockstep {

// Tags of the messages of the gradient exchange. Messages of one kind between two ranks go in bucket order.
inline constexpr int tag_subtree = 101;
inline constexpr int tag_total = 102;
inline constexpr int tag_marks = 103;
inline constexpr int tag_parameters = 104;

/// What both reductions share: the plan, the window, counting what is ready, the order of the steps,
/// parameters.
///
/// Only one thread at a time is inside begin_step(), progress() or finish() of a rank, which try_lock sees
/// to.
class SyncBase : public GradientSync {
 public:
  SyncBase(Communicator& comm, std::int64_t elements, const GradientSyncOptions& options, Timeline* timeline);

  const std::vector<Node>& subtrees() const override { return subtrees_; }
  std::span<float> slot(std::size_t i) override;
  std::int64_t buckets() const override { return plan_.buckets(); }
  Range bucket(std::int64_t b) const override { return plan_.bucket(b); }
  void begin_step(std::int64_t step) override;
  void ready(Range range) override;
  void progress() override;
  void finish() override;
  std::span<const TotalView> totals() const override { return totals_; }
  std::span<const double> finite_marks() const override { return marks_; }
  std::span<double> block_values() override { return block_values_; }
  void gather_block_values() override;
  std::span<const Range> shard() const override { return shard_; }
  std::span<float> parameters() override;
  void publish_parameters() override;
  void gather_parameters(int lane, int lanes) override;

 protected:
  /// Does one piece of work if there is any: true when something was done.
  virtual bool advance() = 0;
  virtual void step_begun() = 0;
  /// True when nothing is left for this rank to do in the step.
  virtual bool complete() const = 0;
  /// After complete(): what must be waited for or computed before the totals may be read.
  virtual void step_completed() = 0;
  /// The first bucket whose exchange is not complete on this rank, for the flight recorder.
  virtual std::int64_t pending_bucket() const = 0;
  /// Cheap: false when advance() would surely do nothing, or when it is too soon to ask the library again.
  virtual bool may_advance() = 0;
  /// True every 20 microseconds at most. Asking the library for messages costs much more than looking at a
  /// counter, and between two kernels nobody waits for the answer.
  bool messages_due();

  /// The one place where a rank waits for others: drives work and messages until `arrived()`.
  template <class Condition, class Work>
  void wait_until(Condition&& arrived, Work&& work) {
    unsigned spins = 0;
    while (!arrived()) {
      if (work()) {
        spins = 0;
        tick();
        continue;
      }
      // Also messages that count as sent may need to be driven on before they reach their peer.
      comm_.poll();
      relax(spins);
    }
  }

  bool ready_here(std::int64_t b) const { return window_.ready(comm_.rank(), b).reached(epoch_); }
  int first_of_group() const;
  int end_of_group() const;
  /// Every rank of this group has counter `which` at `value` or above.
  bool group_reached(SharedCounter SyncWindow::Counters::*which, std::uint64_t value) const;
  void record(EventKind kind, std::int64_t bucket, std::int64_t begin_ns);
  /// Tells the flight recorder of progress.
  void tick();
  /// The exchange of a bucket is complete on this rank.
  void note_exchanged(std::int64_t bucket);
  std::int64_t now() const { return timeline_ != nullptr && timeline_->enabled() ? timeline_->now() : 0; }

  Communicator& comm_;
  GradientSyncOptions options_;
  Timeline* timeline_;
  BucketPlan plan_;
  std::vector<Node> subtrees_;
  std::vector<Range> shard_;
  SyncWindow window_;
  ParameterExchange parameters_;
  std::vector<TotalView> totals_;
  std::vector<double> marks_;
  std::vector<double> block_values_;
  std::unique_ptr<BlockGather> block_gather_;  ///< null where the shard is everything
  std::uint64_t epoch_ = 0;                    ///< begin_step() calls so far: counted alike on all ranks
  std::int64_t step_ = 0;                      ///< what the caller calls it
  std::int64_t exchange_ns_ = 0;               ///< when the last bucket was complete, or the step was begun
  bool open_ = false;                          ///< between begin_step() and the end of finish()

 private:
  class Guard;
  std::unique_ptr<std::atomic<std::int64_t>[]> missing_;  ///< elements of each bucket not yet ready
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  std::chrono::steady_clock::time_point last_asked_{};
};

}  // namespace lockstep
