#pragma once

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// (C, H, W) -> (C*H*W), row-major. A shape of rank 1 stays as it is.
const OpEntry& flatten_op();

}  // namespace lockstep::ops

namespace lockstep {

/// (C, H, W) -> (C*H*W), row-major
struct FlattenAttrs {
  static const OpEntry& entry() { return ops::flatten_op(); }
};

}  // namespace lockstep
