#include "optim/optimizer_kernels.h"

#include <cmath>

#include "core/simd.h"

namespace lockstep::optimizer_kernels {

LOCKSTEP_TARGET_CLONES
void sgd(float* __restrict parameters, const float* __restrict gradient, std::int64_t n,
         const Factors& factors) {
  const float scale = factors.gradient, decay = factors.weight_decay, lr = factors.lr;
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = gradient[i] * scale + decay * parameters[i];
    parameters[i] = parameters[i] - lr * g;
  }
}

LOCKSTEP_TARGET_CLONES
void sgd_momentum(float* __restrict parameters, const float* __restrict gradient, float* __restrict velocity,
                  std::int64_t n, const Factors& factors) {
  const float scale = factors.gradient, decay = factors.weight_decay, lr = factors.lr,
              momentum = factors.momentum;
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = gradient[i] * scale + decay * parameters[i];
    const float v = momentum * velocity[i] + g;
    velocity[i] = v;
    parameters[i] = parameters[i] - lr * v;
  }
}

LOCKSTEP_TARGET_CLONES
void sgd_nesterov(float* __restrict parameters, const float* __restrict gradient, float* __restrict velocity,
                  std::int64_t n, const Factors& factors) {
  const float scale = factors.gradient, decay = factors.weight_decay, lr = factors.lr,
              momentum = factors.momentum;
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = gradient[i] * scale + decay * parameters[i];
    const float v = momentum * velocity[i] + g;
    velocity[i] = v;
    parameters[i] = parameters[i] - lr * (g + momentum * v);
  }
}

LOCKSTEP_TARGET_CLONES
void adam(float* __restrict parameters, const float* __restrict gradient, float* __restrict average,
          float* __restrict square, std::int64_t n, const Factors& factors) {
  const float scale = factors.gradient, decay = factors.weight_decay, shrink = factors.shrink;
  const float beta1 = factors.beta1, rest1 = factors.rest1, beta2 = factors.beta2, rest2 = factors.rest2;
  const float step_size = factors.step_size, root_correction = factors.root_correction,
              epsilon = factors.epsilon;
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = gradient[i] * scale + decay * parameters[i];
    const float m = beta1 * average[i] + rest1 * g;
    const float v = beta2 * square[i] + rest2 * (g * g);
    average[i] = m;
    square[i] = v;
    const float kept = parameters[i] * shrink;
    parameters[i] = kept - step_size * (m / (std::sqrt(v) / root_correction + epsilon));
  }
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
