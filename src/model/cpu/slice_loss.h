#pragma once

#include "model/cpu/plan.h"

namespace lockstep::cpu {

/// The loss of the slice that `ctx` sees, summed over its valid rows in order; in training its gradient goes
/// to the arena. Without labels or targets, which only inference allows, the sums are 0. One lane.
SliceResult slice_loss(const Plan& plan, const Graph& graph, const TaskContext& ctx);

}  // namespace lockstep::cpu
