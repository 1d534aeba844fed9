#pragma once

#include "model/graph/op_table.h"

namespace lockstep::ops {

/// max(x, 0). The gradient at 0 is 0.
OpEntry relu_op();

}  // namespace lockstep::ops
