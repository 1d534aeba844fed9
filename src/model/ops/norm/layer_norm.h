#pragma once

#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& layer_norm_op();

}  // namespace lockstep::ops

namespace lockstep {

/// Ba, Kiros and Hinton 2016: y = (x - mean) / sqrt(variance + epsilon) * weight + bias over every line along
/// the last axis, with the biased variance.
struct LayerNormAttrs {
  double epsilon = 1e-5;
  bool bias = true;
  static constexpr bool centred = true;
  static const OpEntry& entry() { return ops::layer_norm_op(); }
};

}  // namespace lockstep
