#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/graph/graph.h"
#include "optim/options.h"

namespace lockstep {

/// A group of parameters that moves otherwise than the rest.
struct ParameterGroup {
  std::string pattern;          ///< of names (core/name_pattern.h)
  double rate = 1;              ///< the learning rate is multiplied by this
  std::optional<double> decay;  ///< in place of optimizer.weight_decay
  double decay_factor = 1;      ///< optimizer.weight_decay is multiplied by this, where `decay` is not given
  bool adapts = true;           ///< lars, lamb: the rate goes by the parameter's norms
};

/// "backbone.*: lr=0.1x; *.bias: decay=0, adapt=no", the text of optimizer.groups. Throws ConfigError, which
/// says what is wrong with it.
std::vector<ParameterGroup> parse_groups(std::string_view text);

/// For each name the first group whose pattern matches it, -1: none. Throws ConfigError where a group gets
/// no name, with those that are alike.
std::vector<int> assign_groups(const std::vector<ParameterGroup>& groups,
                               const std::vector<std::string>& names);

/// What optimizer.groups matches in a model, one line a group. Throws what the two above throw.
std::vector<std::string> group_lines(const OptimizerOptions& options, const Graph& graph);

}  // namespace lockstep
