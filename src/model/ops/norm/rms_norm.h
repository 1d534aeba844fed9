#pragma once

#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& rms_norm_op();

}  // namespace lockstep::ops

namespace lockstep {

/// Zhang and Sennrich 2019: y = x / sqrt(mean of x^2 + epsilon) * weight over every line along the last axis.
struct RmsNormAttrs {
  double epsilon = 1e-5;
  static constexpr bool centred = false;
  static const OpEntry& entry() { return ops::rms_norm_op(); }
};

}  // namespace lockstep
