#include "trainer/step/train_step.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "trainer/step/device_train_step.h"
#include "trainer/step/host_train_step.h"
#include "trainer/step/step_mode.h"

namespace lockstep {
void TrainStep::check(const Graph& graph, std::int64_t slices, int ranks) {
  const auto trained = [](const Parameter& parameter) { return parameter.trainable; };
  if (std::none_of(graph.parameters.begin(), graph.parameters.end(), trained))
    throw ConfigError("model: it has no parameters, so there is nothing to train; add a conv or dense layer");
  if (ranks > slices)
    throw ConfigError(
        "there are more ranks (" + std::to_string(ranks) + ") than slices (" + std::to_string(slices) +
        "): start fewer ranks, or give train.slices a multiple that divides train.global_batch");
}

StepOutcome TrainStep::run(std::span<const Batch> batches, const BatchCount& count, std::int64_t step,
                           double lr, std::span<SliceResult> results, std::int64_t skipped) {
  require(in_flight() == 0, "TrainStep::run: steps before it were not settled");
  enqueue(batches, count, step, lr, skipped);
  const SettledStep& settled = settle().front();
  std::copy(settled.results.begin(), settled.results.end(), results.begin());
  return settled.outcome;
}

std::unique_ptr<TrainStep> make_train_step(const Graph& graph, const TrainStepOptions& options,
                                           Communicator& comm, LanePool& lanes, Timeline* timeline) {
  const StepMode mode = step_mode(options, comm.size(), timeline);
  if (mode.on_device) return std::make_unique<DeviceTrainStep>(graph, options, mode, comm, lanes, timeline);
  return std::make_unique<HostTrainStep>(graph, options, mode, comm, lanes, timeline);
}

}  // namespace lockstep
