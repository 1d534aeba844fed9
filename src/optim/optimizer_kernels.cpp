#include "optim/optimizer_kernels.h"

#include <array>

#include "core/simd.h"

namespace lockstep::optimizer_kernels {

namespace {

/// The loop over a rule's formula. A class, so that GCC makes the clones of each rule's loop.
template <class Rule>
struct Loop {
  LOCKSTEP_TARGET_CLONES static void update(const Run& run, const UpdateFactors& factors);
};

template <class Rule>
LOCKSTEP_TARGET_CLONES void Loop<Rule>::update(const Run& run, const UpdateFactors& factors) {
  const UpdateFactors f = factors;
  float* __restrict parameters = run.parameters;
  const float* __restrict gradient = run.gradient;
  float* __restrict first = run.states[0];
  float* __restrict second = run.states[1];
  const std::int64_t n = run.n;
  [[maybe_unused]] const float trust = run.trust;
  for (std::int64_t i = 0; i < n; ++i) {
    float p = parameters[i];
    float state[rules::most_slots] = {};
    if constexpr (Rule::slots > 0) state[0] = first[i];
    if constexpr (Rule::slots > 1) state[1] = second[i];
    if constexpr (Rule::need == rules::Need::norms)
      Rule::update(p, gradient[i] * f.gradient, state, f, trust);
    else
      Rule::update(p, gradient[i] * f.gradient, state, f);
    parameters[i] = p;
    if constexpr (Rule::slots > 0) first[i] = state[0];
    if constexpr (Rule::slots > 1) second[i] = state[1];
  }
}

template <class Rule>
struct MeasureLoop {
  LOCKSTEP_TARGET_CLONES static void measure(const Run& run, const UpdateFactors& factors, float* out);
};

template <class Rule>
LOCKSTEP_TARGET_CLONES void MeasureLoop<Rule>::measure(const Run& run, const UpdateFactors& factors,
                                                       float* out) {
  const UpdateFactors f = factors;
  const float* __restrict parameters = run.parameters;
  const float* __restrict gradient = run.gradient;
  float* __restrict first = run.states[0];
  float* __restrict second = run.states[1];
  float* __restrict to = out;
  const std::int64_t n = run.n;
  for (std::int64_t i = 0; i < n; ++i) {
    float state[rules::most_slots] = {};
    if constexpr (Rule::slots > 0) state[0] = first[i];
    if constexpr (Rule::slots > 1) state[1] = second[i];
    to[i] = Rule::measured(parameters[i], gradient[i] * f.gradient, state, f);
    if constexpr (Rule::slots > 0) first[i] = state[0];
    if constexpr (Rule::slots > 1) second[i] = state[1];
  }
}

template <class Rule>
constexpr Measure measure_for() {
  if constexpr (Rule::need == rules::Need::norms)
    return MeasureLoop<Rule>::measure;
  else
    return nullptr;
}

template <class... Rule>
constexpr std::array<Measure, sizeof...(Rule)> measures_of(RuleList<Rule...>) {
  return {measure_for<Rule>()...};
}

template <class... Rule>
constexpr std::array<Update, sizeof...(Rule)> updates_of(RuleList<Rule...>) {
  return {Loop<Rule>::update...};
}

}  // namespace

Update update_of(RuleId rule) {
  static const auto updates = updates_of(AllRules());
  return updates[static_cast<std::size_t>(rule)];
}

Measure measure_of(RuleId rule) {
  static const auto measures = measures_of(AllRules());
  return measures[static_cast<std::size_t>(rule)];
}

LOCKSTEP_TARGET_CLONES
void running_statistic(float* __restrict running, const float* __restrict sum, std::int64_t n, float keep,
                       float take, float mean) {
  for (std::int64_t i = 0; i < n; ++i) running[i] = keep * running[i] + take * (sum[i] * mean);
}

LOCKSTEP_TARGET_CLONES
void add_squares(const float* data, std::int64_t origin, std::int64_t begin, std::int64_t end,
                 double (&accumulators)[8]) {
  std::int64_t i = begin;
  for (; i < end && i % 8 != 0; ++i) {
    const double x = data[i - origin];
    accumulators[i % 8] += x * x;
  }
  double sums[8];
  for (int k = 0; k < 8; ++k) sums[k] = accumulators[k];
  for (; i + 8 <= end; i += 8) {
    const float* x = data + (i - origin);
    for (int k = 0; k < 8; ++k) sums[k] += static_cast<double>(x[k]) * static_cast<double>(x[k]);
  }
  for (int k = 0; k < 8; ++k) accumulators[k] = sums[k];
  for (; i < end; ++i) {
    const double x = data[i - origin];
    accumulators[i % 8] += x * x;
  }
}

}  // namespace lockstep::optimizer_kernels
