#pragma once

#include "model/graph/op_table.h"

namespace lockstep::ops {

/// (C, H, W) -> (C*H*W), row-major. A shape of rank 1 stays as it is.
OpEntry flatten_op();

}  // namespace lockstep::ops
