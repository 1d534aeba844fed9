#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "model/plan/executor.h"
#include "trainer/checkpoint/run_state.h"
#include "trainer/config/config.h"
#include "trainer/guard/loss_log.h"

namespace lockstep {

enum class GuardPolicy { off, stop, skip, rollback };

/// Keeps the mean losses of the last so many steps, and says what is far above them.
class SpikeWindow {
 public:
  /// A spike is a loss above `factor` times the mean of the last `steps` losses; none is one before there are
  /// so many.
  SpikeWindow(double factor, std::int64_t steps);
  /// The bound, where there is one yet. A function of the losses alone: the sum runs from the oldest to the
  /// newest.
  std::optional<double> bound() const;
  void push(double loss);
  /// Oldest first.
  std::vector<double> history() const;
  /// More than `steps` are cut to the newest.
  void restore(std::span<const double> history);

 private:
  double factor_;
  std::size_t steps_;
  std::vector<double> ring_;  // grows up to steps_, then wraps
  std::size_t next_ = 0;      // the oldest, once it wraps
};

/// Decides which batches are left out of the training: those whose step was found bad, by policy. Everything
/// in it is equal on every rank, and goes into checkpoints.
class Guard {
 public:
  /// `slices`: S.
  Guard(const Config::Guard& options, Communicator& comm, std::int64_t slices);

  GuardPolicy nonfinite() const { return nonfinite_; }
  GuardPolicy spike() const { return spike_; }
  bool watches_spikes() const { return spike_ != GuardPolicy::off; }

  /// (all) Before the update of a step, where spikes are watched: false when its loss is one; otherwise the
  /// loss joins the window. `mine`: results of this rank's slices.
  bool accept_loss(std::int64_t step, std::span<const SliceResult> mine);
  /// Of the last accept_loss(): the mean loss over the batch, and the bound it was held against.
  double last_loss() const { return last_loss_; }
  double last_bound() const { return last_bound_; }

  /// Whether this step's batch is to be left out.
  bool skips(std::int64_t step) const;
  /// How many batches before this step were left out.
  std::int64_t skipped_before(std::int64_t step) const;
  const std::vector<SkippedBatch>& skipped() const { return skipped_; }
  /// Whether one more may be left out: guard.limit.
  bool may_skip() const { return static_cast<std::int64_t>(skipped_.size()) < limit_; }
  void skip(SkippedBatch batch);

  /// For checkpoints, and back. restore() keeps the batches that it knows to be bad already; with a state of
  /// a run that did not watch spikes it forgets the losses.
  GuardState state() const;
  void restore(const GuardState& state);

 private:
  GuardPolicy nonfinite_;
  GuardPolicy spike_;
  std::int64_t limit_;
  SpikeWindow window_;
  LossLog losses_;
  std::vector<SkippedBatch> skipped_;  // ascending steps
  double last_loss_ = 0;
  double last_bound_ = 0;
};

}  // namespace lockstep
