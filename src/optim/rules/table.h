#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "optim/options.h"
#include "optim/rules/adagrad.h"
#include "optim/rules/adam.h"
#include "optim/rules/adamw.h"
#include "optim/rules/lamb.h"
#include "optim/rules/lars.h"
#include "optim/rules/lion.h"
#include "optim/rules/rmsprop.h"
#include "optim/rules/sgd.h"

// The optimizer rules there are.

namespace lockstep {

template <class... Rule>
struct RuleList {
  static constexpr int size = sizeof...(Rule);
};

/// A rule that comes in several variants, by momentum, has a line for each.
using AllRules =
    RuleList<rules::Sgd, rules::SgdMomentum, rules::SgdNesterov, rules::Adam, rules::AdamW, rules::RmsProp,
             rules::RmsPropMomentum, rules::Adagrad, rules::Lion, rules::Lars, rules::Lamb>;

/// A place in AllRules.
enum class RuleId : int {};

/// What a rule says of itself.
struct RuleInfo {
  std::string_view name;
  std::span<const std::string_view> states;  ///< of its buffers, as in PyTorch
  rules::Need need;
  rules::Momentum momentum;
  unsigned keys;  ///< rules::Key
  bool shrinks;
  double (*trust)(double parameter, double measured, double coefficient, double weight_decay);
};

/// By RuleId.
std::span<const RuleInfo> rule_table();
inline const RuleInfo& info_of(RuleId rule) {
  return rule_table()[static_cast<std::size_t>(rule)];
}

/// The rule that `options` name. Throws ConfigError where there is none of that name.
RuleId find_rule(const OptimizerOptions& options);

/// The names that optimizer.name may have, in the order of the table.
std::vector<std::string> rule_names();
/// The names of the rules that read a key, for help: "adam, adamw".
std::string rules_with(rules::Key key);
/// The same of rules whose decay shrinks the parameter, and of those where it does not.
std::string rules_that_shrink(bool shrink);
/// Whether a rule of this name reads the key.
bool rule_reads(const std::string& name, rules::Key key);

/// Whether a rule of this name is one with norms.
bool rule_needs_norms(const std::string& name);

/// Calls body(Rule()) for the rule.
template <class Body, class... Rule>
void with_rule(RuleId rule, RuleList<Rule...>, Body&& body) {
  int place = 0;
  ((place++ == static_cast<int>(rule) && (body(Rule()), true)) || ...);
}
template <class Body>
void with_rule(RuleId rule, Body&& body) {
  with_rule(rule, AllRules(), body);
}

}  // namespace lockstep
