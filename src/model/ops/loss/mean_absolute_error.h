#pragma once

#include <cmath>

#include "core/numerics/philox.h"
#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& mean_absolute_error_op();

}  // namespace lockstep::ops

namespace lockstep {

/// The mean over outputs of |x - t|. The slope at 0 is 0, as in PyTorch.
struct MeanAbsoluteErrorAttrs {
  static const OpEntry& entry() { return ops::mean_absolute_error_op(); }
};

/// The loss of one output x against its target t, and its derivative by x.
struct MeanAbsoluteErrorFunction {
  LOCKSTEP_HOST_DEVICE double value(double x, double t) const { return fabs(x - t); }
  LOCKSTEP_HOST_DEVICE double slope(double x, double t) const { return x > t ? 1.0 : x < t ? -1.0 : 0.0; }
  MeanAbsoluteErrorFunction() = default;
  explicit MeanAbsoluteErrorFunction(const OpAttrs&) {}
};

}  // namespace lockstep
