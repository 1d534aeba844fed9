#pragma once

#include "model/graph/op_table.h"

namespace lockstep::ops {

/// The mean of the elements of each window that lie inside the image: padding is not counted.
OpEntry avg_pool_op();

}  // namespace lockstep::ops
