#pragma once

#include <cmath>

#include "core/numerics/philox.h"
#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& mean_squared_error_op();

}  // namespace lockstep::ops

namespace lockstep {

/// The mean over outputs of (x - t)^2.
struct MeanSquaredErrorAttrs {
  static const OpEntry& entry() { return ops::mean_squared_error_op(); }
};

/// The loss of one output x against its target t, and its derivative by x.
struct MeanSquaredErrorFunction {
  LOCKSTEP_HOST_DEVICE double value(double x, double t) const { return (x - t) * (x - t); }
  LOCKSTEP_HOST_DEVICE double slope(double x, double t) const { return 2.0 * (x - t); }
  MeanSquaredErrorFunction() = default;
  explicit MeanSquaredErrorFunction(const OpAttrs&) {}
};

}  // namespace lockstep
