#pragma once

#include <string>
#include <vector>

#include "model/graph/graph.h"

namespace lockstep {

/// Makes the parameters that `patterns` match, the text of model.freeze ("conv*.weight, stem.*",
/// core/name_pattern.h), not trainable. Throws ConfigError for a pattern that matches none, with the names
/// that are alike, and where nothing is left to train.
void freeze_parameters(Graph& graph, const std::string& patterns);

/// What each of these patterns matches, one line a pattern.
std::vector<std::string> freeze_lines(const Graph& graph, const std::string& patterns);

}  // namespace lockstep
