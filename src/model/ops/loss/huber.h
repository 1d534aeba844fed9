#pragma once

#include <cmath>

#include "core/numerics/philox.h"
#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& huber_op();

}  // namespace lockstep::ops

namespace lockstep {

/// The mean over outputs of (x - t)^2 / 2 where |x - t| <= delta, else delta (|x - t| - delta / 2): Huber
/// 1964.
struct HuberAttrs {
  double delta = 1;
  static const OpEntry& entry() { return ops::huber_op(); }
};

/// The loss of one output x against its target t, and its derivative by x.
struct HuberFunction {
  LOCKSTEP_HOST_DEVICE double value(double x, double t) const {
    const double d = fabs(x - t);
    return d <= delta ? d * d / 2.0 : delta * (d - delta / 2.0);
  }
  LOCKSTEP_HOST_DEVICE double slope(double x, double t) const {
    const double d = x - t;
    return d > delta ? delta : d < -delta ? -delta : d;
  }
  explicit HuberFunction(const OpAttrs& attrs) : delta(attrs.as<HuberAttrs>().delta) {}

  double delta;
};

}  // namespace lockstep
