#include "model/cuda/run/machine.h"

#include <fmt/format.h>

#include "core/error.h"
#include "model/cuda/tuning/plan_timing.h"

namespace lockstep::cuda {

GpuMachine::GpuMachine(const CudaOptions& options, const std::string& plan_choice, const Stream& compute,
                       std::function<void()> progress)
    : GpuQueue(compute, options.wait),
      options_(options),
      progress_(std::move(progress)),
      convolutions_(options, compute),
      dense_(options, compute),
      picker_(plan_choice, options.tuner.get()) {}

GpuMachine::~GpuMachine() = default;

template <class Library, class Pass, class Shape>
void GpuMachine::prepare_first(Library& library, const std::vector<Pass>& passes, const Shape& shape) {
  const auto measure = [&](Pass pass, const TuningLimits& limits, double seconds) {
    const auto candidates = library.candidates(pass, shape);
    return time_plans(*candidates, bytes_of(pass, shape, options_.precision), compute(), limits, seconds,
                      progress_);
  };
  if (picker_.pick(library, passes, shape, measure)) return;
  if (picker_.named())
    throw DeviceError(fmt::format("{}: the plans that were chosen elsewhere hold none for it",
                                  describe(passes.front(), shape)));
  throw NoPlan(
      fmt::format("{}: the library has no {}plan in {} that needs at most {} MiB of workspace, {}; try "
                  "{}device.workspace_mb higher or "
                  "another train.precision",
                  describe(passes.front(), shape), options_.deterministic ? "deterministic " : "",
                  name_of(options_.precision), options_.workspace_bytes >> 20, where(),
                  options_.deterministic ? "device.deterministic = false, " : ""));
}

void GpuMachine::prepare_command(const Command& command) {
  if (const auto* c = std::get_if<ConvForward>(&command)) {
    prepare_first(convolutions_, passes_of(*c), c->shape);
  } else if (const auto* n = std::get_if<ConvNormForward>(&command)) {
    prepare_first(convolutions_, passes_of(*n), n->shape);
  } else if (const auto* d = std::get_if<ConvBackwardData>(&command)) {
    prepare_first(convolutions_, passes_of(*d), d->shape);
  } else if (const auto* w = std::get_if<ConvBackwardWeights>(&command)) {
    prepare_first(convolutions_, passes_of(*w, options_.precision), w->shape);
  } else if (const auto* f = std::get_if<DenseForward>(&command)) {
    prepare_first(dense_, passes_of(*f), f->shape);
  } else if (const auto* b = std::get_if<DenseBackwardData>(&command)) {
    prepare_first(dense_, passes_of(*b), b->shape);
  } else if (const auto* g = std::get_if<DenseBackwardWeights>(&command)) {
    prepare_first(dense_, passes_of(*g), g->shape);
  }
}

void GpuMachine::prepare_plans(const Plan& plan) {
  prepare_commands(plan, [&](const Command& command) { prepare_command(command); });
  picker_.save();
  // One after another on one stream, so all plans share one workspace.
  workspace_ = DeviceBuffer(std::max(convolutions_.workspace_bytes(), dense_.workspace_bytes()));
  // A plan that could not be built may leave an error with the thread; the next launch would find it.
  (void)cudaGetLastError();
}

ConvPass GpuMachine::pass_of(const ConvForward& c) const {
  return chosen_pass(std::span<const ConvPass>(passes_of(c)), c.shape, picker_.chosen());
}
ConvPass GpuMachine::pass_of(const ConvBackwardData& c) const {
  return chosen_pass(std::span<const ConvPass>(passes_of(c)), c.shape, picker_.chosen());
}
ConvPass GpuMachine::pass_of(const ConvNormForward& c) const {
  return chosen_pass(std::span<const ConvPass>(passes_of(c)), c.shape, picker_.chosen());
}
DensePass GpuMachine::pass_of(const DenseForward& c) const {
  return chosen_pass(std::span<const DensePass>(passes_of(c)), c.shape, picker_.chosen());
}
DensePass GpuMachine::pass_of(const DenseBackwardData& c) const {
  return chosen_pass(std::span<const DensePass>(passes_of(c)), c.shape, picker_.chosen());
}
DensePass GpuMachine::pass_of(const DenseBackwardWeights& c) const {
  return chosen_pass(std::span<const DensePass>(passes_of(c)), c.shape, picker_.chosen());
}
bool GpuMachine::narrow_weights(const ConvShape& shape) const {
  return picker_.chosen().find(describe(ConvPass::weights, shape)).empty();
}

std::string GpuMachine::implementation(const Command& command) const {
  if (const auto* c = std::get_if<ConvForward>(&command))
    return "cudnn:" + convolutions_.name(pass_of(*c), c->shape);
  if (const auto* n = std::get_if<ConvNormForward>(&command))
    return "cudnn:" + convolutions_.name(pass_of(*n), n->shape);
  if (const auto* d = std::get_if<DenseForward>(&command)) {
    // The first word holds the algorithm's number; the whole is for the plan choice.
    return "cublasLt:" + dense_.name(pass_of(*d), d->shape).substr(0, 16);
  }
  return "lockstep:cuda";
}

std::string GpuMachine::library() const {
  return fmt::format("cuDNN {}, cuBLASLt {}, {}, {}", ConvLibrary::version(), DenseLibrary::version(),
                     name_of(options_.precision),
                     options_.deterministic ? "deterministic" : "not deterministic");
}

}  // namespace lockstep::cuda
