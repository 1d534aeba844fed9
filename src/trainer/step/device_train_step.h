#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "device/device_pointer.h"
#include "device/memory.h"
#include "trainer/step/device_step.h"
#include "trainer/step/step_core.h"

namespace lockstep {

/// A step whose flat buffers lie in the memory of a device, which sums and updates them. Where it also
/// decides whether to update (StepMode::device_decides), a step goes without the host's word in the middle,
/// and several may be under way.
class DeviceTrainStep final : public StepCore {
 public:
  /// (all) `options.device` makes the DeviceStep. As make_train_step().
  DeviceTrainStep(const Graph& graph, const TrainStepOptions& options, const StepMode& mode,
                  Communicator& comm, LanePool& lanes, Timeline* timeline);
  ~DeviceTrainStep() override;

  void enqueue(std::span<const Batch> batches, const BatchCount& count, std::int64_t step, double lr,
               std::int64_t skipped) override;
  std::span<const SettledStep> settle() override;
  void compute_again(std::span<const Batch> batches, const BatchCount& count, std::int64_t step) override;

  const Optimizer& optimizer() const override;
  std::span<const float> parameters() const override;
  std::span<const TotalView> totals() override;
  Optimizer& writable_optimizer() override;
  std::span<float> writable_parameters() override;
  void set_loss_scale(const LossScale& state) override;

 private:
  /// A step that was left to the device.
  struct Flight {
    std::int64_t step = 0;
    double lr = 0;
    double entered = 0;    ///< when, by the host's clock
    double preparing = 0;  ///< seconds of the host before its first work for the device
    std::int64_t updating_ns = 0, updated_ns = 0;  ///< of the timeline
  };
  class Frame;

  // Of a step that the host decides.
  void before_step() override { write_to_device(); }
  bool gradient_is_finite(std::span<const SliceResult> results) override;
  void sum_squares(std::span<double> sums) override;
  void measure(std::span<double> sums) override;
  void update(const UpdateScalars& scalars) override;
  void gather_parameters() override { sync_->gather_parameters(0, 1); }

  // Of one that the device decides.
  void enqueue_on_device(std::span<const Batch> batches, const BatchCount& count, std::int64_t step,
                         double lr, std::int64_t skipped);
  /// Behind the totals. `marked`: notes the times of its points.
  void decide_on_device(bool marked);
  DecisionUse decision_use() const;
  StepTimes times_on_device(int place) const;

  /// Here and in the two below the synchroniser's addresses become those of a device.
  DevicePointer<float> device_parameters() const { return on_device(sync_->parameters()).data(); }
  std::span<const DeviceTotal> device_totals();
  /// What of the totals has state, in state_totals_ and state_offsets_.
  void cut_totals();
  void update_on_device(DecisionUse follow);
  void write_to_device();
  void read_from_device() const;
  /// Calls copy(address, the host's elements) for each piece of the optimizer's state.
  template <class Copy>
  void each_state(Copy&& copy) const;
  DeviceStepSetup setup() const;

  std::unique_ptr<DeviceStep> device_;
  mutable HostBuffer mirror_;  // of the device's parameters; with the optimizer's state brought up to date
  mutable bool device_is_newer_ = false;
  bool host_is_newer_ = true;
  bool scale_is_newer_ = true;   // the host's loss_scale_ than the device's
  std::vector<Flight> flights_;  // by place; in_flight_ of them are under way
  bool halted_ = false;          // the device applies no step until it is told to resume
  std::vector<DeviceTotal> totals_;
  std::vector<TotalView> state_views_;       // see cut_totals()
  std::vector<DeviceTotal> state_totals_;    // likewise
  std::vector<std::int64_t> state_offsets_;  // likewise
  std::vector<double> of_blocks_;  // what the synchroniser or the device says of each, for its finiteness
  std::vector<std::vector<float>> totals_copy_;
  std::vector<TotalView> totals_views_;  // of the copy
};

}  // namespace lockstep
