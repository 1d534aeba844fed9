#pragma once

#include "model/graph/op_table.h"

namespace lockstep::ops {

/// The mean over height and width: (C, H, W) -> (C, 1, 1).
OpEntry global_avg_pool_op();

}  // namespace lockstep::ops
