#pragma once

#include <cmath>

#include "core/numerics/exp_float.h"
#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& tanh_op();

}  // namespace lockstep::ops

namespace lockstep {

/// The hyperbolic tangent.
struct TanhAttrs {
  static const OpEntry& entry() { return ops::tanh_op(); }
};

/// Its function and slope: in float32 for CPU and GPU alike, in float64 the definition.
struct TanhFunction {
  /// Near 0 its series to x^9 (the next term is below 1e-8 of the value); beyond, (1 - e) / (1 + e) with e =
  /// e^-2|x|.
  LOCKSTEP_HOST_DEVICE __attribute__((always_inline)) float value(float x) const {
    const float e = exp_float(x > 0.0f ? -2.0f * x : 2.0f * x);
    const float far = (1.0f - e) / (1.0f + e);
    const float q = x * x;
    float p = 62.0f / 2835.0f;
    p = p * q - 17.0f / 315.0f;
    p = p * q + 2.0f / 15.0f;
    p = p * q - 1.0f / 3.0f;
    const float near = x + x * (q * p);
    const float signed_far = x > 0.0f ? far : -far;
    return q < 0.0625f ? near : signed_far;
  }
  /// 1 - tanh^2 = 4 e / (1 + e)^2.
  LOCKSTEP_HOST_DEVICE __attribute__((always_inline)) float slope(float x) const {
    const float e = exp_float(x > 0.0f ? -2.0f * x : 2.0f * x);
    const float r = 1.0f / (1.0f + e);
    return 4.0f * e * r * r;
  }
  double value(double x) const { return std::tanh(x); }
  double slope(double x) const { return 1.0 / (std::cosh(x) * std::cosh(x)); }
  TanhFunction() = default;
  explicit TanhFunction(const OpAttrs&) {}
};

}  // namespace lockstep
