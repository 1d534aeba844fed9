#pragma once

#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& hinge_op();

}  // namespace lockstep::ops

namespace lockstep {

/// The multi-class hinge of Crammer and Singer 2001: max(0, 1 + the largest score of another class - the
/// score of the label). The first of equally large ones takes the gradient; it is 0 where the loss is.
struct HingeAttrs {
  static const OpEntry& entry() { return ops::hinge_op(); }
};

}  // namespace lockstep
