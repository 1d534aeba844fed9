#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/sync/block_gather.h"
#include "comm/sync/gradient_sync.h"
#include "device/memory.h"
#include "trainer/step/step_mode.h"
#include "trainer/step/train_step.h"

namespace lockstep {

/// What a step in host memory and one on a device have in common, and the order of a step that the host
/// decides: it is over when enqueue() returns. The classes below it say how the work is done where the
/// buffers lie.
class StepCore : public TrainStep {
 public:
  ~StepCore() override;

  Node slices() const final { return mine_; }
  Executor& executor() final { return *executor_; }
  const Executor& executor() const final { return *executor_; }
  GradientSync& sync() final { return *sync_; }
  int in_flight() const final { return in_flight_; }
  int most_in_flight() const final { return mode_.most_in_flight; }
  const StepTimes& times() const final { return times_; }
  const LossScale& loss_scale() const final;
  void keep_slice(std::int64_t slice) final;
  std::span<const float> kept_gradient() const final { return kept_.as<float>(); }
  void abandon(const std::string& why) noexcept final;

  void enqueue(std::span<const Batch> batches, const BatchCount& count, std::int64_t step, double lr,
               std::int64_t skipped) override;
  std::span<const SettledStep> settle() override;
  void set_loss_scale(const LossScale& state) override;

 protected:
  /// (all)
  StepCore(const Graph& graph, const TrainStepOptions& options, const StepMode& mode, Communicator& comm,
           LanePool& lanes, Timeline* timeline);

  // Of a step that the host decides, where the buffers lie; each is called once a step, in this order.
  virtual void before_step() = 0;
  /// (all) Whether losses, gradient and statistics are finite on all ranks: the same answer on each.
  virtual bool gradient_is_finite(std::span<const SliceResult> results) = 0;
  /// As Optimizer::sum_squares() of this rank's totals.
  virtual void sum_squares(std::span<double> sums) = 0;
  /// The update by the factors of `scalars`, which the optimizer has; find_norms() stands before it.
  virtual void update(const UpdateScalars& scalars) = 0;
  /// As Optimizer::measure_share() of this rank's totals.
  virtual void measure(std::span<double> sums) = 0;
  virtual void gather_parameters() = 0;

  StepInputs step_inputs(std::span<const Batch> batches, std::int64_t step);
  UpdateScalars update_scalars(const BatchCount& count, std::int64_t step, double lr,
                               std::int64_t skipped) const;
  /// What a rule with norms needs before the update; nothing else.
  void find_norms();
  /// Whether steps that are not finite are left out.
  bool watches() const { return options_.watch_gradient || options_.device.scales_loss; }
  bool everybody_has(bool good);
  std::span<SliceResult> results_of(int place);
  static void check_batch(const BatchCount& count, std::int64_t step, std::int64_t skipped);
  [[noreturn]] static void throw_divergence(std::int64_t step, double norm);

  TrainStepOptions options_;
  const StepMode mode_;
  Communicator& comm_;
  LanePool& lanes_;
  Timeline* timeline_;
  FlightRecorder* recorder_;  // may be null
  Node mine_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<GradientSync> sync_;
  std::unique_ptr<Optimizer> optimizer_;
  int in_flight_ = 0;
  std::vector<SettledStep> settled_;
  StepTimes times_;
  LossScaleOptions loss_scale_options_;
  LossScale loss_scale_{loss_scale_options_.initial, 0, 0};  // where the device decides: as it was settled

 private:
  class Listener;
  class SliceListener;
  StepOutcome run_with_host(std::span<const Batch> batches, const BatchCount& count, std::int64_t step,
                            double lr, std::span<SliceResult> results, std::int64_t skipped);
  /// `normed`: when the last wait for others in it was over.
  StepOutcome decide_and_update(const BatchCount& count, std::int64_t step, double lr,
                                std::span<const SliceResult> results, std::int64_t skipped, double& normed);
  double gather_gradient_norm(double inverse_weight);
  StepFault note_nonfinite();

  std::vector<SliceResult> settled_results_;  // (places, slices)
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<SliceListener> slice_listener_;
  std::vector<std::span<float>> roots_;
  std::vector<std::byte> flags_;  // what every rank has found
  HostBuffer kept_;
  std::int64_t kept_slice_ = -1;
  std::vector<double> norm_sums_;              // of a rule with norms
  std::unique_ptr<BlockGather> norm_gather_;   // as block_gather_
  std::vector<double> squares_;                // of the gradient, per block of it
  std::unique_ptr<BlockGather> block_gather_;  // null where this rank holds every total
};

}  // namespace lockstep
