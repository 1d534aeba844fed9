#include "optim/parameter_sets.h"

#include <algorithm>

#include "core/error.h"

namespace lockstep {

ParameterSets parameter_sets(const OptimizerOptions& options, const FlatLayout& layout) {
  ParameterSets out;
  out.sets.push_back({1, options.weight_decay});
  for (const FlatSegment& segment : layout.segments) {
    out.of_segment.push_back(0);
    if (segment.kind != FlatSegment::Kind::parameter) continue;
    ParameterSet wanted = out.sets.front();
    if (!options.decay_norms && segment.shape.rank() == 1) wanted.weight_decay = 0;
    auto found = std::find(out.sets.begin(), out.sets.end(), wanted);
    if (found == out.sets.end()) found = out.sets.insert(found, wanted);
    out.of_segment.back() = static_cast<int>(found - out.sets.begin());
  }
  require(out.sets.size() <= most_sets, "there are more parameter sets than a device keeps factors of");
  return out;
}

}  // namespace lockstep
