#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "comm/sync/block_gather.h"
#include "comm/sync/gradient_sync.h"
#include "core/numerics/loss_scale.h"
#include "device/lane_pool.h"
#include "device/memory.h"
#include "model/plan/executor.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "trainer/config/config.h"
#include "trainer/step/compute_device.h"
#include "trainer/step/step_times.h"

namespace lockstep {

enum class DecisionUse : int;  // trainer/step/device_step.h
struct DeviceStepSetup;        // likewise

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
/// nothing.
class TrainStep {
 public:
  /// (all) Compiles the graph for this rank's slices. Throws ConfigError when there are more ranks than
  /// slices or the model has nothing to train.
  TrainStep(const Graph& graph, const TrainStepOptions& options, Communicator& comm, LanePool& lanes,
            Timeline* timeline = nullptr);
  ~TrainStep();

  /// What the constructor refuses, without communication: more ranks than slices, or nothing to train.
  static void check(const Graph& graph, std::int64_t slices, int ranks);

  /// The slices of this rank.
  Node slices() const { return mine_; }
  Executor& executor() { return *executor_; }
  GradientSync& sync() { return *sync_; }
  /// Where a device holds the buffers, these two hand out the host's copies, brought up to date by the call;
  /// they age with the next step. To read costs no upload, however often.
  const Optimizer& optimizer() const;
  std::span<const float> parameters() const;
  /// The same, to be changed: before the next step all of the host's copies go to the device.
  Optimizer& writable_optimizer();
  std::span<float> writable_parameters();
  /// Of the last step: what this rank applied, in host memory. Valid until the next call.
  std::span<const TotalView> totals();

  /// (all) One step. `batches`: one per slice of this rank; `count`: of the global batch; `step`: batches
  /// before this one; `results`: one per slice of this rank, written; `skipped`: how many of the batches
  /// before were left out, so made no update. Throws DivergenceError when clipping meets a gradient norm that
  /// is not finite (alike on every rank) and watch_gradient is off.
  StepOutcome run(std::span<const Batch> batches, const BatchCount& count, std::int64_t step, double lr,
                  std::span<SliceResult> results, std::int64_t skipped = 0);

  /// (all) The same in two parts. enqueue() takes the step, or leaves it to the device and returns;
  /// in_flight() counts the steps whose outcome was not asked for. Not when full(). What enqueue() reads of
  /// its arguments it has read when it returns.
  void enqueue(std::span<const Batch> batches, const BatchCount& count, std::int64_t step, double lr,
               std::int64_t skipped = 0);
  int in_flight() const { return in_flight_; }
  bool full() const { return in_flight_ == most_in_flight_; }
  /// More than 1 where steps may be enqueued one behind the other; the same on every rank.
  int most_in_flight() const { return most_in_flight_; }
  /// Waits for the steps in flight, once, and tells of them in order, up to the first that was not applied
  /// and did not just overflow: the device has not applied those enqueued behind that one either, and they
  /// count as never taken. Valid until the next enqueue(). Throws what run() throws.
  std::span<const SettledStep> settle();
  /// (all) After settle() has told of such a step while others were enqueued behind it:
  /// computes it once more, without applying it, so that totals() are its own again.
  void compute_again(std::span<const Batch> batches, const BatchCount& count, std::int64_t step);

  /// After an error, of which `why` tells, before anything that holds memory of the device is destroyed: what
  /// waits for peers there is ended without them. Nothing may be called after that.
  void abandon(const std::string& why) noexcept;

  /// Of the last step on this rank that was applied; `load` is the caller's to fill in, and what `step` lacks
  /// of it.
  const StepTimes& times() const { return times_; }

  /// From the next run() on, keeps the gradient of one slice as it was before it was added to others; -1: of
  /// none. Takes memory for one gradient when a rank first keeps one.
  void keep_slice(std::int64_t slice);
  /// The kept gradient, where the slice is this rank's.
  std::span<const float> kept_gradient() const { return kept_.as<float>(); }
  /// The scale of the loss, for checkpoints; equal on every rank. Stays as it is where the device scales
  /// none. Not while steps are in flight: what they make of it the host does not know.
  const LossScale& loss_scale() const;
  void set_loss_scale(const LossScale& state);

 private:
  class Listener;
  class SliceListener;
  /// A step that was left to the device.
  struct Flight {
    std::int64_t step = 0;
    double lr = 0;
    double entered = 0;    ///< when, by the host's clock
    double preparing = 0;  ///< seconds of the host before its first work for the device
    std::int64_t updating_ns = 0, updated_ns = 0;  ///< of the timeline
  };
  class Frame;
  StepInputs step_inputs(std::span<const Batch> batches, std::int64_t step);
  /// A step that is over when the call returns, as the host decides it.
  StepOutcome run_with_host(std::span<const Batch> batches, const BatchCount& count, std::int64_t step,
                            double lr, std::span<SliceResult> results, std::int64_t skipped);
  bool gradient_is_finite(std::span<const SliceResult> results);
  bool everybody_has(bool good);
  StepFault note_nonfinite();
  [[noreturn]] static void throw_divergence(std::int64_t step, double norm);
  UpdateScalars update_scalars(const BatchCount& count, std::int64_t step, double lr,
                               std::int64_t skipped) const;
  double gather_gradient_norm(double inverse_weight);
  /// What a rule with norms needs before the update; nothing else.
  void find_norms();
  /// The optimizer's part of run(). `normed`: when the last wait for others in it was over.
  StepOutcome update(const BatchCount& count, std::int64_t step, double lr,
                     std::span<const SliceResult> results, std::int64_t skipped, double& normed);

  // In train_step_device.cpp: where a device holds the flat buffers.
  /// The beginning of the destructor.
  void leave_device() noexcept;
  void write_to_device();
  void read_from_device() const;
  bool device_gradient_is_finite(std::span<const SliceResult> results);
  DeviceStepSetup device_setup() const;
  void cut_totals();
  void update_device(DecisionUse follow);
  /// A step without the host's word in the middle: the device decides whether to update and how much to clip.
  void enqueue_on_device(std::span<const Batch> batches, const BatchCount& count, std::int64_t step,
                         double lr, std::int64_t skipped);
  /// Behind the totals. `marked`: notes the times of its points.
  void decide_and_update(bool marked);
  bool watches() const;
  DecisionUse device_decision() const;
  void settle_on_device();
  StepTimes times_on_device(int place) const;
  std::span<SliceResult> results_of(int place);

  TrainStepOptions options_;
  Communicator& comm_;
  LanePool& lanes_;
  Timeline* timeline_;
  FlightRecorder* recorder_;  // may be null
  Node mine_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<GradientSync> sync_;
  std::unique_ptr<Optimizer> optimizer_;
  bool device_decides_;  // see enqueue_on_device()
  int most_in_flight_;
  bool whole_;                          // a step is one piece of work for the device
  std::unique_ptr<DeviceStep> device_;  // null: the buffers lie in host memory
  mutable HostBuffer mirror_;  // of the device's parameters; with the optimizer's state brought up to date
  mutable bool device_is_newer_ = false;
  bool host_is_newer_ = false;
  bool scale_is_newer_ = false;  // the host's loss_scale_ than the device's
  std::vector<Flight> flights_;  // by place; in_flight_ of them are under way
  int in_flight_ = 0;
  bool halted_ = false;                       // the device applies no step until it is told to resume
  std::vector<SliceResult> settled_results_;  // (places, slices)
  std::vector<SettledStep> settled_;
  std::vector<TotalView> state_views_;        // of the totals, what has state; see cut_for_state()
  std::vector<std::int64_t> state_offsets_;   // of these
  std::vector<double> norm_sums_;             // of a rule with norms
  std::unique_ptr<BlockGather> norm_gather_;  // as block_gather_
  std::vector<double> of_blocks_;  // what the synchroniser or the device says of each, for its finiteness
  std::vector<std::vector<float>> totals_copy_;
  std::vector<TotalView> totals_views_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<SliceListener> slice_listener_;
  std::vector<std::span<float>> roots_;
  StepTimes times_;
  std::vector<std::byte> flags_;  // with Reduction::fast: what every rank has found
  HostBuffer kept_;
  std::int64_t kept_slice_ = -1;
  LossScaleOptions loss_scale_options_;
  LossScale loss_scale_{loss_scale_options_.initial, 0, 0};  // where the device decides: as it was settled

  std::vector<double> squares_;                // of the gradient, per block of it
  std::unique_ptr<BlockGather> block_gather_;  // null where this rank holds every total
};

}  // namespace lockstep
