#include "optim/device_optimizer.h"

#include "core/error.h"

namespace lockstep {

std::vector<cuda::GranuleKind> granule_kinds(const FlatLayout& layout, const OptimizerOptions& options) {
  constexpr std::int64_t size = cuda::granule_elements;
  std::vector<cuda::GranuleKind> kinds(static_cast<std::size_t>((layout.elements + size - 1) / size));
  const ParameterSets sets = parameter_sets(options, layout);
  for (std::size_t i = 0; i < layout.segments.size(); ++i) {
    const FlatSegment& segment = layout.segments[i];
    require(segment.storage.begin % size == 0, "a segment of a flat layout begins off its grid");
    cuda::GranuleKind kind;
    if (segment.kind == FlatSegment::Kind::statistic) {
      kind.statistic = 1;
      kind.keep = static_cast<float>(1 - segment.momentum);
      kind.take = static_cast<float>(segment.momentum);
    } else if (segment.trainable) {
      require(i == 0 || layout.segments[i - 1].storage.begin <= segment.storage.begin,
              "the segments of a flat layout do not ascend");
      kind.parameter = 1;
      kind.segment = static_cast<std::uint32_t>(i);
      kind.set = static_cast<std::uint8_t>(sets.of_segment[i]);
    }
    for (std::int64_t e = segment.storage.begin; e < segment.storage.end; e += size)
      kinds[static_cast<std::size_t>(e / size)] = kind;
  }
  return kinds;
}

cuda::StepScalars device_scalars(const Optimizer& optimizer, const UpdateScalars& scalars,
                                 const OptimizerOptions& options, std::int64_t updates) {
  cuda::StepScalars out;
  out.count = static_cast<int>(optimizer.factors().size());
  for (std::size_t s = 0; s < optimizer.factors().size(); ++s) {
    out.sets[s] = optimizer.factors()[s];
    out.lr[s] = scalars.lr * optimizer.sets().sets[s].rate;
  }
  out.inverse_weight = scalars.inverse_weight;
  out.beta1 = options.beta1;
  out.beta2 = options.beta2;
  out.updates = updates;
  return out;
}

}  // namespace lockstep
