#pragma once

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// exp(x - max) / sum of exp(x - max) over the last axis.
const OpEntry& softmax_op();

}  // namespace lockstep::ops

namespace lockstep {

/// over the last axis
struct SoftmaxAttrs {
  static const OpEntry& entry() { return ops::softmax_op(); }
};

}  // namespace lockstep
