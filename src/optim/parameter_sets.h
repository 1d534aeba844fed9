#pragma once

#include <vector>

#include "model/graph/flat_layout.h"
#include "optim/options.h"

namespace lockstep {

/// Parameters that share the factors of a step.
struct ParameterSet {
  double rate = 1;  ///< the learning rate of a step is multiplied by this
  double weight_decay = 0;
  bool adapts = true;  ///< rules::Need::norms: whether the norms count
  friend bool operator==(const ParameterSet&, const ParameterSet&) = default;
};

/// Sets of a run, at most: a device keeps the factors of all of them.
inline constexpr int most_sets = 16;

struct ParameterSets {
  std::vector<ParameterSet> sets;  ///< at least one, each another
  std::vector<int> of_segment;     ///< by place in FlatLayout::segments; 0 of what is not trained
};

/// The sets that optimizer.groups makes (optim/groups.h). Without decay_norms, and where Parameter::decays
/// says so, there is no weight decay for norms and biases, the parameters of rank 1, nor are they adapted.
/// Throws ConfigError where the groups do not fit the parameters, or are too many.
ParameterSets parameter_sets(const OptimizerOptions& options, const FlatLayout& layout);

}  // namespace lockstep
