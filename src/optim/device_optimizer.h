#pragma once

#include <vector>

#include "model/graph/flat_layout.h"
#include "optim/cuda/work_optimizer.h"
#include "optim/optimizer.h"
#include "optim/options.h"

namespace lockstep {

/// What every sixteen elements of a flat buffer are to the optimizer: the table that the GPU's optimizer step
/// reads.
std::vector<cuda::GranuleKind> granule_kinds(const FlatLayout& layout, const OptimizerOptions& options);

/// The factors of a step, by set, in the form that the GPU's optimizer step reads; they were computed from
/// `scalars`. `updates`: those before it, had no step overflowed.
cuda::StepScalars device_scalars(const Optimizer& optimizer, const UpdateScalars& scalars,
                                 const OptimizerOptions& options, std::int64_t updates);

}  // namespace lockstep
