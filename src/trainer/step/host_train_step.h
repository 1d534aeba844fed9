#pragma once

#include "trainer/step/step_core.h"

namespace lockstep {

/// A step whose flat buffers lie in host memory: the lanes sum, update and copy.
class HostTrainStep final : public StepCore {
 public:
  /// (all) `mode.on_device` is false. As make_train_step().
  HostTrainStep(const Graph& graph, const TrainStepOptions& options, const StepMode& mode, Communicator& comm,
                LanePool& lanes, Timeline* timeline);

  const Optimizer& optimizer() const override { return *optimizer_; }
  std::span<const float> parameters() const override { return sync_->parameters(); }
  std::span<const TotalView> totals() override { return sync_->totals(); }
  Optimizer& writable_optimizer() override { return *optimizer_; }
  std::span<float> writable_parameters() override { return sync_->parameters(); }
  /// Never: no step is left to a device.
  [[noreturn]] void compute_again(std::span<const Batch> batches, const BatchCount& count,
                                  std::int64_t step) override;

 private:
  void before_step() override {}
  bool gradient_is_finite(std::span<const SliceResult> results) override;
  void sum_squares(std::span<double> sums) override;
  void measure(std::span<double> sums) override;
  void update(const UpdateScalars& scalars) override;
  void gather_parameters() override;
};

}  // namespace lockstep
