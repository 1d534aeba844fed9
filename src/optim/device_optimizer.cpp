#include "optim/device_optimizer.h"

#include "core/error.h"

namespace lockstep {

std::vector<cuda::GranuleKind> granule_kinds(const FlatLayout& layout, const OptimizerOptions& options) {
  constexpr std::int64_t size = cuda::granule_elements;
  std::vector<cuda::GranuleKind> kinds(static_cast<std::size_t>((layout.elements + size - 1) / size));
  for (const FlatSegment& segment : layout.segments) {
    require(segment.storage.begin % size == 0, "a segment of a flat layout begins off its grid");
    cuda::GranuleKind kind;
    if (segment.kind == FlatSegment::Kind::statistic) {
      kind.statistic = 1;
      kind.keep = static_cast<float>(1 - segment.momentum);
      kind.take = static_cast<float>(segment.momentum);
    } else {
      kind.parameter = 1;
      kind.decays = options.decay_norms || segment.shape.rank() != 1 ? 1 : 0;
    }
    for (std::int64_t e = segment.storage.begin; e < segment.storage.end; e += size)
      kinds[static_cast<std::size_t>(e / size)] = kind;
  }
  return kinds;
}

cuda::UpdateRule update_rule_of(const OptimizerOptions& options) {
  if (options.name == "adam" || options.name == "adamw") return cuda::UpdateRule::adam;
  if (options.name != "sgd")
    throw ConfigError("optimizer.name: there is no optimizer \"" + options.name + "\" (sgd, adam, adamw)");
  if (options.momentum == 0) return cuda::UpdateRule::sgd;
  return options.nesterov ? cuda::UpdateRule::sgd_nesterov : cuda::UpdateRule::sgd_momentum;
}

cuda::UpdateFactors device_factors(const optimizer_kernels::Factors& f) {
  cuda::UpdateFactors out;
  out.gradient = f.gradient;
  out.mean = f.mean;
  out.lr = f.lr;
  out.weight_decay = f.weight_decay;
  out.shrink = f.shrink;
  out.momentum = f.momentum;
  out.beta1 = f.beta1;
  out.rest1 = f.rest1;
  out.beta2 = f.beta2;
  out.rest2 = f.rest2;
  out.step_size = f.step_size;
  out.root_correction = f.root_correction;
  out.epsilon = f.epsilon;
  return out;
}

cuda::StepScalars device_scalars(const optimizer_kernels::Factors& factors, const UpdateScalars& scalars,
                                 const OptimizerOptions& options, std::int64_t updates) {
  cuda::StepScalars out;
  out.factors = device_factors(factors);
  out.inverse_count = scalars.inverse_count;
  out.lr = scalars.lr;
  out.beta1 = options.beta1;
  out.beta2 = options.beta2;
  out.updates = updates;
  return out;
}

}  // namespace lockstep
