#pragma once

#include <span>

#include "model/graph/graph.h"
#include "model/plan/executor.h"

namespace lockstep {

/// The row of a report on a planned op that computes `nodes` at once and gives `output`: all but its kernel.
OpReport report_of(const Graph& graph, std::span<const int> nodes, ValueId output);

}  // namespace lockstep
