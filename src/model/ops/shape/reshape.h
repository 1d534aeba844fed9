#pragma once

#include "core/shape.h"
#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// The same numbers in row-major order, with other extents.
const OpEntry& reshape_op();

}  // namespace lockstep::ops

namespace lockstep {

struct ReshapeAttrs {
  Shape shape;  ///< of one sample; as many elements as the input has
  static const OpEntry& entry() { return ops::reshape_op(); }
};

}  // namespace lockstep
