#pragma once

#include <cmath>

#include "core/numerics/philox.h"
#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& binary_cross_entropy_op();

}  // namespace lockstep::ops

namespace lockstep {

/// The mean over outputs of -t log s - (1 - t) log(1 - s), s = 1 / (1 + e^-x): x is a logit, t in [0, 1].
struct BinaryCrossEntropyAttrs {
  static const OpEntry& entry() { return ops::binary_cross_entropy_op(); }
};

/// The loss of one output x against its target t, and its derivative by x.
struct BinaryCrossEntropyFunction {
  LOCKSTEP_HOST_DEVICE double value(double x, double t) const {
    // log(1 + e^-|x|) + max(x, 0) - x t: nothing overflows.
    return log1p(exp(-fabs(x))) + (x > 0 ? x : 0.0) - x * t;
  }
  LOCKSTEP_HOST_DEVICE double slope(double x, double t) const {
    const double e = exp(-fabs(x));
    return (x > 0 ? 1.0 : e) / (1.0 + e) - t;
  }
  BinaryCrossEntropyFunction() = default;
  explicit BinaryCrossEntropyFunction(const OpAttrs&) {}
};

}  // namespace lockstep
