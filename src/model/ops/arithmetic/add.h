#pragma once

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// The elementwise sum of two values of one shape. A value may be added to itself.
const OpEntry& add_op();

}  // namespace lockstep::ops

namespace lockstep {

/// elementwise sum of two values of one shape
struct AddAttrs {
  static const OpEntry& entry() { return ops::add_op(); }
};

}  // namespace lockstep
