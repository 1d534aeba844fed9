#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {

LOCKSTEP_CLONES void exp_shifted(const float* x, float shift, float* y, std::int64_t n) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) y[i] = exp_float(x[i] - shift);
}

namespace {

/// Adds up the accumulators two by two.
LOCKSTEP_INLINE double fold(double (&part)[lanes]) {
  for (std::int64_t half = lanes / 2; half > 0; half /= 2) {
    for (std::int64_t l = 0; l < half; ++l) part[l] += part[l + half];
  }
  return part[0];
}

}  // namespace

LOCKSTEP_CLONES double sum(const float* x, std::int64_t n) {
  double part[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (std::int64_t l = 0; l < lanes; ++l) part[l] += static_cast<double>(x[i + l]);
  }
  for (std::int64_t l = 0; i + l < n; ++l) part[l] += static_cast<double>(x[i + l]);
  return fold(part);
}

LOCKSTEP_CLONES double dot(const float* a, const float* b, std::int64_t n) {
  double part[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (std::int64_t l = 0; l < lanes; ++l) {
      part[l] += static_cast<double>(a[i + l]) * static_cast<double>(b[i + l]);
    }
  }
  for (std::int64_t l = 0; i + l < n; ++l) {
    part[l] += static_cast<double>(a[i + l]) * static_cast<double>(b[i + l]);
  }
  return fold(part);
}

LOCKSTEP_CLONES float largest(const float* x, std::int64_t n) {
  float part[lanes];
  for (std::int64_t l = 0; l < lanes; ++l) part[l] = x[0];
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (std::int64_t l = 0; l < lanes; ++l) part[l] = x[i + l] > part[l] ? x[i + l] : part[l];
  }
  for (std::int64_t l = 0; i + l < n; ++l) part[l] = x[i + l] > part[l] ? x[i + l] : part[l];
  float best = part[0];
  for (std::int64_t l = 1; l < lanes; ++l) best = part[l] > best ? part[l] : best;
  return best;
}

}  // namespace lockstep::cpu
