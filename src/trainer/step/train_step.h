#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "comm/sync/gradient_sync.h"
#include "core/numerics/loss_scale.h"
#include "device/lane_pool.h"
#include "model/plan/executor.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "trainer/config/config.h"
#include "trainer/step/compute_device.h"
#include "trainer/step/step_times.h"

namespace lockstep {

/// What a training step is made from; everything here decides either bits or placement, never both.
struct TrainStepOptions {
  std::uint64_t seed = 1;
  std::int64_t slice_rows = 1;  ///< global batch / S
  double clip_norm = 0;         ///< 0: off
  Config::Optimizer optimizer;
  GradientSyncOptions sync;         ///< sync.slices is S
  ComputeDevice device;             ///< the CPU where nothing is said
  std::vector<Graph> classes = {};  ///< the graphs of a family, one for each length class (ExecutorOptions)
  std::vector<FieldTransform> transforms = {};  ///< what the executor does to fields (ExecutorOptions)
  std::string plan_choice;  ///< the library plans to take, see ExecutorOptions; empty: rank 0 picks them
  /// For tests: sees, and may change, this rank's subtree sums over a range before they are exchanged. On any
  /// lane.
  std::function<void(Range range, std::span<const std::span<float>> roots)> before_ready;
  /// For tests: sees, and may change, each slice's own gradient before it is added to others. On any lane.
  std::function<void(std::int64_t slice, Range range, std::span<float> gradient)> after_slice;
  /// A loss, a gradient or a statistic that is not finite keeps the step from being applied: decided alike on
  /// every rank, and on the totals, so alike at any placement.
  bool watch_gradient = true;
  /// (all) The last word before the update, while the parameters are still those that the gradient was
  /// computed with: false keeps the step from being applied. Must answer alike on every rank. `results`: of
  /// this rank's slices.
  std::function<bool(std::span<const SliceResult> results)> before_update;
  /// How many steps enqueue() may leave to a device before the host asks for their outcomes, where the device
  /// decides by itself and no step needs to know of the one before: see TrainStep::most_in_flight(). Equal on
  /// every rank; no bit depends on it.
  int in_flight = 1;
};

/// Why a step was not applied: then parameters, statistics and optimizer state are as they were before it.
enum class StepFault {
  none,       ///< it was applied
  nonfinite,  ///< a NaN or an infinity
  refused,    ///< by TrainStepOptions::before_update
  overflow    ///< the scaled gradient left the range of float16: the step is skipped, and the next takes a
              ///< smaller scale
};

/// What a step tells its caller at once, equal on every rank.
struct StepOutcome {
  double lr = 0;
  double gradient_norm = -1;  ///< of the mean gradient, before clipping; -1 when clipping is off
  StepFault fault = StepFault::none;
};

/// A step whose outcome is known.
struct SettledStep {
  std::int64_t step = 0;  ///< as enqueue() was told
  StepOutcome outcome;
  std::span<const SliceResult> results;  ///< one per slice of this rank
  StepTimes times;                       ///< where it was applied; `load` is the caller's to fill in
};

/// What the totals of a step are divided by; equal on every rank. A count of samples stands for both.
struct BatchCount {
  std::int64_t samples = 0;  ///< of the global batch, over all ranks: of statistics
  double weight = 0;         ///< of the loss over all of them (LoadedBatch::weight): of gradients
  BatchCount(std::int64_t count) : samples(count), weight(static_cast<double>(count)) {}
  BatchCount(std::int64_t count, double loss_weight) : samples(count), weight(loss_weight) {}
};

/// One rank's part of a data-parallel training step: forward and backward of its slices, the sum of gradients
/// over all slices, the optimizer, and the parameters back from their owners. A steady step allocates
/// nothing. Parameters, gradients and optimizer state lie in host memory or in that of a device; which, only
/// make_train_step() knows.
class TrainStep {
 public:
  virtual ~TrainStep() = default;
  TrainStep(const TrainStep&) = delete;
  TrainStep& operator=(const TrainStep&) = delete;

  /// What make_train_step() refuses, without communication: more ranks than slices, or nothing to train.
  static void check(const Graph& graph, std::int64_t slices, int ranks);

  /// (all) Takes the step, or leaves it to the device and returns; in_flight() counts the steps whose outcome
  /// was not asked for. Not when full(). `batches`: one per slice of this rank; `count`: of the
  /// global batch; `step`: batches before this one; `skipped`: how many of the batches before
  /// were left out, so made no update. What it reads of its arguments it has read when it returns. Throws
  /// DivergenceError when clipping meets a gradient norm that is not finite (alike on every rank) and
  /// watch_gradient is off.
  virtual void enqueue(std::span<const Batch> batches, const BatchCount& count, std::int64_t step, double lr,
                       std::int64_t skipped = 0) = 0;
  virtual int in_flight() const = 0;
  /// More than 1 where steps may be enqueued one behind the other; the same on every rank.
  virtual int most_in_flight() const = 0;
  bool full() const { return in_flight() == most_in_flight(); }
  /// Waits for the steps in flight, once, and tells of them in order, up to the first that was not applied
  /// and did not just overflow: the device has not applied those enqueued behind that one either, and they
  /// count as never taken. Valid until the next enqueue(). Throws what enqueue() throws.
  virtual std::span<const SettledStep> settle() = 0;
  /// (all) After settle() has told of such a step while others were enqueued behind it:
  /// computes it once more, without applying it, so that totals() are its own again.
  virtual void compute_again(std::span<const Batch> batches, const BatchCount& count, std::int64_t step) = 0;
  /// (all) enqueue() and settle() of one step. `results`: one per slice of this rank, written.
  StepOutcome run(std::span<const Batch> batches, const BatchCount& count, std::int64_t step, double lr,
                  std::span<SliceResult> results, std::int64_t skipped = 0);

  /// What a step leaves, to be read: where a device holds it, the host's copies, brought up to date by the
  /// call; they age with the next step. To read changes nothing and costs no upload, however often.
  virtual const Optimizer& optimizer() const = 0;
  virtual std::span<const float> parameters() const = 0;
  /// The scale of the loss, for checkpoints; equal on every rank. Stays as it is where the device scales
  /// none. Not while steps are in flight: what they make of it the host does not know.
  virtual const LossScale& loss_scale() const = 0;
  /// Of the last step: what this rank applied, in host memory. Valid until the next call.
  virtual std::span<const TotalView> totals() = 0;
  /// Of the last step on this rank that was applied; `load` is the caller's to fill in, and what `step` lacks
  /// of it.
  virtual const StepTimes& times() const = 0;

  /// The same, to be changed: before the next step all of it goes to where the step holds it.
  virtual Optimizer& writable_optimizer() = 0;
  virtual std::span<float> writable_parameters() = 0;
  virtual void set_loss_scale(const LossScale& state) = 0;

  /// The slices of this rank.
  virtual Node slices() const = 0;
  virtual Executor& executor() = 0;
  virtual const Executor& executor() const = 0;
  virtual GradientSync& sync() = 0;

  /// From the next step on, keeps the gradient of one slice as it was before it was added to others; -1: of
  /// none. Takes memory for one gradient when a rank first keeps one.
  virtual void keep_slice(std::int64_t slice) = 0;
  /// The kept gradient, where the slice is this rank's.
  virtual std::span<const float> kept_gradient() const = 0;

  /// After an error, of which `why` tells, before anything that holds memory of the device is destroyed: what
  /// waits for peers there is ended without them. Nothing may be called after that.
  virtual void abandon(const std::string& why) noexcept = 0;

 protected:
  TrainStep() = default;
};

/// (all) Compiles the graph for this rank's slices, for options.device. References must outlive the step.
/// Throws ConfigError when there are more ranks than slices or the model has nothing to train.
std::unique_ptr<TrainStep> make_train_step(const Graph& graph, const TrainStepOptions& options,
                                           Communicator& comm, LanePool& lanes, Timeline* timeline = nullptr);

}  // namespace lockstep
