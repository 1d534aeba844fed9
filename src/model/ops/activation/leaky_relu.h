#pragma once

#include <cmath>

#include "core/numerics/exp_float.h"
#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& leaky_relu_op();

}  // namespace lockstep::ops

namespace lockstep {

/// x where it is positive, else `slope` x. The slope at 0 is `slope`, as in PyTorch.
struct LeakyReluAttrs {
  double slope = 0.01;  ///< of negative values
  static const OpEntry& entry() { return ops::leaky_relu_op(); }
};

/// Its function and slope: in float32 for CPU and GPU alike, in float64 the definition.
struct LeakyReluFunction {
  LOCKSTEP_HOST_DEVICE __attribute__((always_inline)) float value(float x) const {
    return x > 0.0f ? x : negative * x;
  }
  LOCKSTEP_HOST_DEVICE __attribute__((always_inline)) float slope(float x) const {
    return x > 0.0f ? 1.0f : negative;
  }
  double value(double x) const { return x > 0 ? x : static_cast<double>(negative) * x; }
  double slope(double x) const { return x > 0 ? 1.0 : static_cast<double>(negative); }
  LOCKSTEP_HOST_DEVICE explicit LeakyReluFunction(float slope) : negative(slope) {}
  explicit LeakyReluFunction(const OpAttrs& attrs)
      : negative(static_cast<float>(attrs.as<LeakyReluAttrs>().slope)) {}

  float negative;
};

}  // namespace lockstep
