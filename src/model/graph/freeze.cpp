#include "model/graph/freeze.h"

#include <algorithm>

#include "core/counted.h"
#include "core/error.h"
#include "core/name_pattern.h"
#include "core/text.h"

namespace lockstep {
namespace {

std::vector<std::string> patterns_of(const std::string& text) {
  if (trim(text).empty()) return {};
  std::vector<std::string> patterns = split_patterns(text);
  if (patterns.empty())
    throw ConfigError("model.freeze: \"" + text + "\" has an empty part: write patterns between commas");
  return patterns;
}

}  // namespace

void freeze_parameters(Graph& graph, const std::string& patterns) {
  std::vector<std::string> names;
  for (const Parameter& parameter : graph.parameters) names.push_back(parameter.name);
  const std::vector<std::string> wanted = patterns_of(patterns);
  for (const std::string& pattern : wanted) {
    bool found = false;
    for (Parameter& parameter : graph.parameters) {
      if (!matches_pattern(pattern, parameter.name)) continue;
      parameter.trainable = false;
      found = true;
    }
    if (!found)
      throw ConfigError("model.freeze: the pattern " + pattern + " matches no parameter; like it are " +
                        nearest_names(pattern, names));
  }
  const auto trained = [](const Parameter& parameter) { return parameter.trainable; };
  if (!wanted.empty() && std::none_of(graph.parameters.begin(), graph.parameters.end(), trained))
    throw ConfigError("model.freeze: " + patterns +
                      " matches every parameter, so there is nothing to train: leave some out");
}

std::vector<std::string> freeze_lines(const Graph& graph, const std::string& patterns) {
  std::vector<std::string> lines;
  for (const std::string& pattern : patterns_of(patterns)) {
    std::int64_t tensors = 0, elements = 0;
    for (const Parameter& parameter : graph.parameters) {
      if (!matches_pattern(pattern, parameter.name)) continue;
      ++tensors;
      elements += parameter.shape.elements();
    }
    lines.push_back("model.freeze: " + pattern + " keeps " + counted(tensors, "tensor") + ", " +
                    counted(elements, "parameter") + ", as they are");
  }
  return lines;
}

}  // namespace lockstep
