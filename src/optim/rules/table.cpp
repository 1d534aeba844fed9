#include "optim/rules/table.h"

#include <algorithm>

#include "core/error.h"

namespace lockstep {
namespace {

template <class... Rule>
constexpr std::array<RuleInfo, sizeof...(Rule)> table_of(RuleList<Rule...>) {
  static_assert(((Rule::states.size() == static_cast<std::size_t>(Rule::slots)) && ...));
  static_assert(((Rule::slots <= rules::most_slots) && ...));
  return {RuleInfo{Rule::name, Rule::states, Rule::need, Rule::momentum, Rule::keys, Rule::shrinks,
                   Rule::trust}...};
}

constexpr auto table = table_of(AllRules());

/// The names of the rules for which `says` holds, each once.
template <class Says>
std::vector<std::string> names_where(Says says) {
  std::vector<std::string> names;
  for (const RuleInfo& info : table)
    if (says(info) && std::find(names.begin(), names.end(), info.name) == names.end())
      names.emplace_back(info.name);
  return names;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

bool fits(const RuleInfo& info, const OptimizerOptions& options) {
  using rules::Momentum;
  if (info.momentum == Momentum::any) return true;
  if (options.momentum == 0) return info.momentum == Momentum::none;
  const bool nesterov = options.nesterov && (info.keys & rules::key_nesterov) != 0;
  return info.momentum == (nesterov ? Momentum::nesterov : Momentum::plain);
}

}  // namespace

std::span<const RuleInfo> rule_table() {
  return table;
}

RuleId find_rule(const OptimizerOptions& options) {
  for (std::size_t i = 0; i < table.size(); ++i)
    if (table[i].name == options.name && fits(table[i], options)) return static_cast<RuleId>(i);
  throw ConfigError("optimizer.name: there is no optimizer \"" + options.name + "\" (" +
                    joined(rule_names()) + ")");
}

std::vector<std::string> rule_names() {
  return names_where([](const RuleInfo&) { return true; });
}

std::string rules_with(rules::Key key) {
  return joined(names_where([&](const RuleInfo& info) { return (info.keys & key) != 0; }));
}

std::string rules_that_shrink(bool shrink) {
  return joined(names_where([&](const RuleInfo& info) { return info.shrinks == shrink; }));
}

bool rule_reads(const std::string& name, rules::Key key) {
  return std::any_of(table.begin(), table.end(),
                     [&](const RuleInfo& info) { return info.name == name && (info.keys & key) != 0; });
}

bool rule_needs_norms(const std::string& name) {
  return std::any_of(table.begin(), table.end(), [&](const RuleInfo& info) {
    return info.name == name && info.need == rules::Need::norms;
  });
}

}  // namespace lockstep
