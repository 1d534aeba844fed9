#pragma once

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// The mean over height and width: (C, H, W) -> (C, 1, 1).
const OpEntry& global_avg_pool_op();

}  // namespace lockstep::ops

namespace lockstep {

/// (C, H, W) -> (C, 1, 1)
struct GlobalAvgPoolAttrs {
  static const OpEntry& entry() { return ops::global_avg_pool_op(); }
};

}  // namespace lockstep
