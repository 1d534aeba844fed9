#pragma once

#include <cstdint>

#include "optim/rules/table.h"

// The elementwise loops of the optimizers, over one run of elements of one segment. Each element is computed
// by the same correctly rounded float operations in the same order, whatever the run's length, alignment or
// instruction set. Runs of one call must not overlap. Nothing is allocated.

namespace lockstep::optimizer_kernels {

/// A run of elements.
struct Run {
  float* parameters;
  const float* gradient;             ///< totals
  float* states[rules::most_slots];  ///< as many as the rule has
  std::int64_t n;
  float trust = 1;  ///< of rules with norms
};

/// The formula of one rule (optim/rules/) over a run.
using Update = void (*)(const Run& run, const UpdateFactors& factors);
Update update_of(RuleId rule);

/// What the second norm of a rule is taken of (rules::Need::norms), into n elements of `out`.
using Measure = void (*)(const Run& run, const UpdateFactors& factors, float* out);
/// Null for a rule that needs elements alone.
Measure measure_of(RuleId rule);

/// running = keep * running + take * (sum * mean).
void running_statistic(float* running, const float* sum, std::int64_t n, float keep, float take, float mean);

/// accumulators[i] += x^2 in float64 over the elements x of [begin, end) with index i modulo 8, in ascending
/// order of indices. data[0] is element `origin`.
void add_squares(const float* data, std::int64_t origin, std::int64_t begin, std::int64_t end,
                 double (&accumulators)[8]);

}  // namespace lockstep::optimizer_kernels
