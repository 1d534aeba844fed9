#pragma once

#include <vector>

#include "model/cuda/kernels/work_optimizer.h"
#include "model/graph/flat_layout.h"
#include "optim/optimizer.h"
#include "optim/options.h"

namespace lockstep {

/// What every sixteen elements of a flat buffer are to the optimizer: the table that the GPU's optimizer step
/// reads.
std::vector<cuda::GranuleKind> granule_kinds(const FlatLayout& layout, const OptimizerOptions& options);

/// The rule that `options` name. Throws ConfigError for an unknown one.
cuda::UpdateRule update_rule_of(const OptimizerOptions& options);

/// The factors of a step in the form that the GPU's optimizer step reads.
cuda::UpdateFactors device_factors(const optimizer_kernels::Factors& factors);

/// A step whose factors were computed from `scalars`. `updates`: those before it, had no step overflowed.
cuda::StepScalars device_scalars(const optimizer_kernels::Factors& factors, const UpdateScalars& scalars,
                                 const OptimizerOptions& options, std::int64_t updates);

}  // namespace lockstep
