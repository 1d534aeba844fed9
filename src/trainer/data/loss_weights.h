#pragma once

#include <memory>
#include <vector>

#include "data/dataset.h"
#include "model/graph/graph.h"

namespace lockstep {

/// What every sample of the set weighs in the graph's loss (LoaderOptions::weights); null where each
/// weighs 1. (one) Reads the labels of the whole set, once. ConfigError where all weigh 0.
std::shared_ptr<const std::vector<float>> loss_weights(const Graph& graph, const Dataset& data);

}  // namespace lockstep
