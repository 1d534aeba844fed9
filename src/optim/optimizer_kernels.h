#pragma once

#include <cstdint>

// The elementwise loops of the optimizers, over one run of elements of one segment. Each element is computed
// by the same correctly rounded float operations in the same order, whatever the run's length, alignment or
// instruction set. Runs of one call must not overlap. Nothing is allocated.

namespace lockstep::optimizer_kernels {

/// What all elements of one step share, computed in float64 and rounded once.
struct Factors {
  float gradient = 0;  ///< the gradient sum times this is the mean gradient, clipped
  float mean = 0;      ///< the gradient sum times this is the mean; for statistics
  float lr = 0;
  float weight_decay = 0;  ///< added to the gradient, times the parameter
  float shrink = 1;        ///< the parameter is first multiplied by this (decoupled decay)
  float momentum = 0;
  float beta1 = 0, rest1 = 0;  ///< rest = 1 - beta
  float beta2 = 0, rest2 = 0;
  float step_size = 0, root_correction = 1;  ///< see BiasCorrection
  float epsilon = 0;
};

void sgd(float* parameters, const float* gradient, std::int64_t n, const Factors& factors);
void sgd_momentum(float* parameters, const float* gradient, float* velocity, std::int64_t n,
                  const Factors& factors);
void sgd_nesterov(float* parameters, const float* gradient, float* velocity, std::int64_t n,
                  const Factors& factors);
/// Adam and AdamW: they differ in factors only (weight_decay and shrink).
void adam(float* parameters, const float* gradient, float* average, float* square, std::int64_t n,
          const Factors& factors);
/// running = keep * running + take * (sum * mean).
void running_statistic(float* running, const float* sum, std::int64_t n, float keep, float take, float mean);

/// accumulators[i] += x^2 in float64 over the elements x of [begin, end) with index i modulo 8, in ascending
/// order of indices. data[0] is element `origin`.
void add_squares(const float* data, std::int64_t origin, std::int64_t begin, std::int64_t end,
                 double (&accumulators)[8]);

}  // namespace lockstep::optimizer_kernels
