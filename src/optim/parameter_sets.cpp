#include "optim/parameter_sets.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "optim/groups.h"

namespace lockstep {

ParameterSets parameter_sets(const OptimizerOptions& options, const FlatLayout& layout) {
  const std::vector<ParameterGroup> groups = parse_groups(options.groups);
  std::vector<std::string> names;
  for (const FlatSegment& segment : layout.segments)
    if (segment.is_trained()) names.push_back(segment.name);
  const std::vector<int> group_of_name = assign_groups(groups, names);

  ParameterSets out;
  out.sets.push_back({1, options.weight_decay, true});
  std::size_t next = 0;
  for (const FlatSegment& segment : layout.segments) {
    out.of_segment.push_back(0);
    if (!segment.is_trained()) continue;
    ParameterSet wanted = out.sets.front();
    if (const int g = group_of_name[next++]; g >= 0) {
      const ParameterGroup& group = groups[static_cast<std::size_t>(g)];
      wanted = {group.rate, group.decay.value_or(options.weight_decay * group.decay_factor), group.adapts};
    }
    if (!segment.decays || (!options.decay_norms && segment.shape.rank() == 1)) {
      wanted.weight_decay = 0;
      wanted.adapts = false;
    }
    auto found = std::find(out.sets.begin(), out.sets.end(), wanted);
    if (found == out.sets.end()) found = out.sets.insert(found, wanted);
    out.of_segment.back() = static_cast<int>(found - out.sets.begin());
  }
  if (out.sets.size() > most_sets)
    throw ConfigError("optimizer.groups: they make " + std::to_string(out.sets.size()) +
                      " different pairs of rate and decay, and " + std::to_string(most_sets) +
                      " is the most there may be: give some of them the same");
  return out;
}

}  // namespace lockstep
