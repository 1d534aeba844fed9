#pragma once

#include <cmath>

#include "core/numerics/exp_float.h"
#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& sigmoid_op();

}  // namespace lockstep::ops

namespace lockstep {

/// 1 / (1 + e^-x).
struct SigmoidAttrs {
  static const OpEntry& entry() { return ops::sigmoid_op(); }
};

/// Its function and slope: in float32 for CPU and GPU alike, in float64 the definition.
struct SigmoidFunction {
  LOCKSTEP_HOST_DEVICE __attribute__((always_inline)) float value(float x) const {
    // e^-|x|, so that nothing overflows.
    const float e = exp_float(x > 0.0f ? -x : x);
    const float r = 1.0f / (1.0f + e);
    return x > 0.0f ? r : e * r;
  }
  /// s (1 - s) = e / (1 + e)^2.
  LOCKSTEP_HOST_DEVICE __attribute__((always_inline)) float slope(float x) const {
    const float e = exp_float(x > 0.0f ? -x : x);
    const float r = 1.0f / (1.0f + e);
    return e * r * r;
  }
  double value(double x) const { return 1.0 / (1.0 + std::exp(-x)); }
  double slope(double x) const { return value(x) * value(-x); }
  SigmoidFunction() = default;
  explicit SigmoidFunction(const OpAttrs&) {}
};

}  // namespace lockstep
