#pragma once

#include <cmath>

#include "core/numerics/exp_float.h"
#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& silu_op();

}  // namespace lockstep::ops

namespace lockstep {

/// x / (1 + e^-x), also called swish: Elfwing, Uchibe and Doya 2018.
struct SiluAttrs {
  static const OpEntry& entry() { return ops::silu_op(); }
};

/// Its function and slope: in float32 for CPU and GPU alike, in float64 the definition.
struct SiluFunction {
  LOCKSTEP_HOST_DEVICE __attribute__((always_inline)) float value(float x) const {
    const float e = exp_float(x > 0.0f ? -x : x);
    const float r = 1.0f / (1.0f + e);
    return x * (x > 0.0f ? r : e * r);
  }
  /// s + x s (1 - s), s the sigmoid. Beyond 104 in size s is 0 or 1 in float32.
  LOCKSTEP_HOST_DEVICE __attribute__((always_inline)) float slope(float x) const {
    const float e = exp_float(x > 0.0f ? -x : x);
    const float r = 1.0f / (1.0f + e);
    const float near = x > 104.0f ? 104.0f : x < -104.0f ? -104.0f : x;
    return (x > 0.0f ? r : e * r) + near * (e * r * r);
  }
  double value(double x) const { return x / (1.0 + std::exp(-x)); }
  double slope(double x) const {
    const double s = 1.0 / (1.0 + std::exp(-x));
    return s + x * s / (1.0 + std::exp(x));
  }
  SiluFunction() = default;
  explicit SiluFunction(const OpAttrs&) {}
};

}  // namespace lockstep
