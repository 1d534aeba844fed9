#include "trainer/step/host_train_step.h"

#include <atomic>
#include <cmath>

#include "core/error.h"
#include "core/numerics/finite.h"

namespace lockstep {

HostTrainStep::HostTrainStep(const Graph& graph, const TrainStepOptions& options, const StepMode& mode,
                             Communicator& comm, LanePool& lanes, Timeline* timeline)
    : StepCore(graph, options, mode, comm, lanes, timeline) {
  require(!mode.on_device, "HostTrainStep: the flat buffers lie on a device");
}

void HostTrainStep::compute_again(std::span<const Batch>, const BatchCount&, std::int64_t) {
  throw InternalError("TrainStep::compute_again: no step was refused");
}

bool HostTrainStep::gradient_is_finite(std::span<const SliceResult>) {
  // Losses that are not finite stand in the gradient.
  if (mode_.sync.finite_marks) {
    double sum = 0;
    for (const double mark : sync_->finite_marks()) sum += mark;
    return std::isfinite(sum);
  }
  // Each rank looks at its own totals, and asks around.
  std::atomic<bool> finite{true};
  lanes_.run([&](int lane) {
    for (const TotalView& view : sync_->totals()) {
      const std::int64_t n = view.range.size(), lanes = lanes_.size();
      const std::int64_t from = n * lane / lanes, to = n * (lane + 1) / lanes;
      if (!all_finite({view.data + from, static_cast<std::size_t>(to - from)})) finite = false;
    }
  });
  return comm_.size() == 1 ? finite.load() : everybody_has(finite);
}

void HostTrainStep::sum_squares(std::span<double> sums) {
  lanes_.run([&](int lane) { optimizer_->sum_squares(sync_->totals(), sums, lane, lanes_.size()); });
}

void HostTrainStep::measure(std::span<double> sums) {
  lanes_.run([&](int lane) {
    optimizer_->measure_share(sync_->totals(), sync_->parameters(), sums, lane, lanes_.size());
  });
}

void HostTrainStep::update(const UpdateScalars&) {
  find_norms();
  lanes_.run(
      [&](int lane) { optimizer_->update_share(sync_->totals(), sync_->parameters(), lane, lanes_.size()); });
}

void HostTrainStep::gather_parameters() {
  lanes_.run([&](int lane) { sync_->gather_parameters(lane, lanes_.size()); });
}

}  // namespace lockstep
