#pragma once

#include "model/graph/op_table.h"

namespace lockstep::ops {

/// exp(x - max) / sum of exp(x - max) over the last axis.
OpEntry softmax_op();

}  // namespace lockstep::ops
