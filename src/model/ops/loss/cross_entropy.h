#pragma once

#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& cross_entropy_op();

}  // namespace lockstep::ops

namespace lockstep {

/// -log softmax(x)[label] of a row of logits x, one for each class.
struct CrossEntropyAttrs {
  static const OpEntry& entry() { return ops::cross_entropy_op(); }
};

}  // namespace lockstep
