#pragma once

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// max(x, 0). The gradient at 0 is 0.
const OpEntry& relu_op();

}  // namespace lockstep::ops

namespace lockstep {

struct ReluAttrs {
  static const OpEntry& entry() { return ops::relu_op(); }
};

}  // namespace lockstep
