#include "trainer/guard/slice_probe.h"

namespace lockstep {

SliceProbe::SliceProbe(const Graph& graph, std::int64_t slice_rows, LanePool& lanes,
                       const ComputeDevice& device, const std::string& plan_choice, FlightRecorder* recorder,
                       std::vector<FieldTransform> transforms)
    : rows_(slice_rows), recorder_(recorder) {
  const FlightScope compiling(recorder, Activity::compile);
  ExecutorOptions options;
  options.slice_rows = slice_rows;
  options.training = true;
  options.slices = 1;
  options.mine = {0, 1};
  options.plan_choice = plan_choice;
  options.transforms = std::move(transforms);
  executor_ = device.compile(graph, options, lanes, nullptr);
  gradient_ = HostBuffer(static_cast<std::size_t>(executor_->layout().elements) * sizeof(float));
}

SliceResult SliceProbe::compute(const Batch& batch, std::span<const float> parameters, std::uint64_t seed,
                                std::int64_t step, SliceGradientListener* listener, OpInspector* inspector) {
  /// The executor knows one slice, number 0; listeners hear of the slice's real number.
  struct Renumber final : SliceGradientListener {
    SliceGradientListener* to = nullptr;
    std::int64_t slice = 0;
    void slice_ready(std::int64_t, Range range, std::span<float> gradient) override {
      to->slice_ready(slice, range, gradient);
    }
  } renumber;
  renumber.to = listener;
  renumber.slice = batch.slice;
  /// Each op is progress: a search through many slices is no hang.
  struct Ticker final : GradientListener {
    FlightRecorder* recorder = nullptr;
    void ready(Range) override {}
    void progress() override {
      if (recorder != nullptr) recorder->tick();
    }
  } ticker;
  ticker.recorder = recorder_;
  SliceResult result;
  const std::span<float> root = gradient_.as<float>();
  StepInputs inputs;
  inputs.seed = seed;
  inputs.loss_scale = loss_scale_;
  inputs.step = static_cast<std::uint64_t>(step);
  inputs.parameters = parameters;
  inputs.slices = {&batch, 1};
  inputs.roots = {&root, 1};
  inputs.results = {&result, 1};
  if (listener != nullptr) inputs.slice_listener = &renumber;
  inputs.inspector = inspector;
  inputs.listener = &ticker;
  executor_->train(inputs);
  return result;
}

}  // namespace lockstep
