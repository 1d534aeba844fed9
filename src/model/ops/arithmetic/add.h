#pragma once

#include "model/graph/op_table.h"

namespace lockstep::ops {

/// The elementwise sum of two values of one shape. A value may be added to itself.
OpEntry add_op();

}  // namespace lockstep::ops
