#pragma once

#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& multiply_op();

}  // namespace lockstep::ops

namespace lockstep {

/// The elementwise product of two values of one shape. A value may be multiplied by itself.
struct MultiplyAttrs {
  static const OpEntry& entry() { return ops::multiply_op(); }
};

}  // namespace lockstep
