#pragma once

#include "model/graph/op_table.h"

namespace lockstep::ops {

/// The largest element of each window; padding never wins. Of equal elements the first in row-major order of
/// the window takes the gradient.
OpEntry max_pool_op();

}  // namespace lockstep::ops
