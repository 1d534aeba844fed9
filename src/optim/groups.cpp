#include "optim/groups.h"

#include <algorithm>
#include <fmt/format.h>

#include "core/counted.h"
#include "core/error.h"
#include "core/name_pattern.h"
#include "core/text.h"
#include "optim/rules/table.h"

namespace lockstep {
namespace {

constexpr const char* example = "backbone.*: lr=0.1x, decay=0; *.bias: decay=0";

[[noreturn]] void refuse(const std::string& what) {
  throw ConfigError(fmt::format("optimizer.groups: {}; write it like {}", what, example));
}

/// "0.1x" or "0.1".
struct Amount {
  double value;
  bool factor;
};
Amount amount_of(const std::string& setting, std::string_view text, double most) {
  const bool factor = text.ends_with('x');
  const auto value = parse_double(factor ? text.substr(0, text.size() - 1) : text);
  if (!value || *value < 0 || *value > most)
    refuse(fmt::format("\"{}\" of {} is not a number from 0 to {}{}", text, setting, most,
                       setting == "lr" ? " with an x behind it" : ", or one with an x behind it"));
  return {*value, factor};
}

void set(ParameterGroup& group, std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::string name(trim(text.substr(0, equals)));
  if (equals == text.npos || (name != "lr" && name != "decay" && name != "adapt"))
    refuse(fmt::format("\"{}\" of group {} is none of lr=, decay= and adapt=", trim(text), group.pattern));
  const std::string_view value = trim(text.substr(equals + 1));
  if (name == "adapt") {
    if (value != "yes" && value != "no") refuse(fmt::format("\"{}\" of adapt is neither yes nor no", value));
    group.adapts = value == "yes";
    return;
  }
  const Amount amount = amount_of(name, value, name == "lr" ? 1e6 : 1e3);
  if (name == "decay") {
    if (amount.factor)
      group.decay_factor = amount.value;
    else
      group.decay = amount.value;
    return;
  }
  if (!amount.factor)
    refuse(
        fmt::format("\"{}\" of lr needs an x behind it: it is a factor of the rate that optimizer.lr and "
                    "the schedule give",
                    value));
  if (amount.value == 0)
    refuse(
        fmt::format("with lr=0x the parameters {} would not move: model.freeze is for that", group.pattern));
  group.rate = amount.value;
}

/// `flat`: how many of the tensors do not decay for their shape.
std::string settings_text(const ParameterGroup& group, const OptimizerOptions& options, std::int64_t tensors,
                          std::int64_t flat) {
  const double decay = flat == tensors ? 0 : group.decay.value_or(options.weight_decay * group.decay_factor);
  std::string text = fmt::format("rate {}x, decay {}", group.rate, decay);
  if (flat > 0 && flat < tensors && decay > 0)
    text += fmt::format(" (0 of {}, by optimizer.decay_norms)", counted(flat, "tensor"));
  return group.adapts ? text : text + ", not adapted";
}

}  // namespace

std::vector<ParameterGroup> parse_groups(std::string_view text) {
  std::vector<ParameterGroup> groups;
  if (trim(text).empty()) return groups;
  for (const std::string_view part : split(text, ';')) {
    const std::size_t colon = part.find(':');
    ParameterGroup group;
    group.pattern = std::string(trim(part.substr(0, colon)));
    if (colon == part.npos || group.pattern.empty())
      refuse(fmt::format("\"{}\" is not a pattern, a colon and settings", trim(part)));
    for (const std::string_view setting : split(part.substr(colon + 1), ',')) set(group, setting);
    groups.push_back(std::move(group));
  }
  return groups;
}

std::vector<int> assign_groups(const std::vector<ParameterGroup>& groups,
                               const std::vector<std::string>& names) {
  std::vector<int> of_name(names.size(), -1);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    bool matches = false, takes = false;
    for (std::size_t n = 0; n < names.size(); ++n) {
      if (!matches_pattern(groups[g].pattern, names[n])) continue;
      matches = true;
      if (of_name[n] >= 0) continue;
      takes = true;
      of_name[n] = static_cast<int>(g);
    }
    if (!matches)
      throw ConfigError(
          fmt::format("optimizer.groups: the pattern {} matches no parameter that is trained; "
                      "like it are {}",
                      groups[g].pattern, nearest_names(groups[g].pattern, names)));
    if (!takes)
      throw ConfigError(
          fmt::format("optimizer.groups: all that the pattern {} matches is in groups before it, "
                      "and the first one counts: put it before them, or leave it out",
                      groups[g].pattern));
  }
  return of_name;
}

std::vector<std::string> group_lines(const OptimizerOptions& options, const Graph& graph) {
  const std::vector<ParameterGroup> groups = parse_groups(options.groups);
  std::vector<std::string> names;
  std::vector<std::int64_t> sizes;
  std::vector<bool> flat;
  for (const Parameter& parameter : graph.parameters) {
    if (!parameter.trainable) continue;
    names.push_back(parameter.name);
    sizes.push_back(parameter.shape.elements());
    flat.push_back(!parameter.decays || (!options.decay_norms && parameter.shape.rank() == 1));
  }
  const std::vector<int> of_name = assign_groups(groups, names);
  std::vector<std::string> lines;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::int64_t tensors = 0, elements = 0, undecayed = 0;
    for (std::size_t n = 0; n < names.size(); ++n) {
      if (of_name[n] != static_cast<int>(g)) continue;
      ++tensors;
      undecayed += flat[n] ? 1 : 0;
      elements += sizes[n];
    }
    lines.push_back(fmt::format("optimizer.groups: {} has {}, {}: {}", groups[g].pattern,
                                counted(tensors, "tensor"), counted(elements, "parameter"),
                                settings_text(groups[g], options, tensors, undecayed)));
  }
  return lines;
}

}  // namespace lockstep
