#pragma once

#include <cstdint>

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// The mean of the elements of each window that lie inside the image: padding is not counted.
const OpEntry& avg_pool_op();

}  // namespace lockstep::ops

namespace lockstep {

/// Padding counts as zeros but not in the divisor (count_include_pad = false).
struct AvgPoolAttrs {
  std::int64_t kernel_h = 0, kernel_w = 0, stride_h = 0, stride_w = 0, pad_h = 0, pad_w = 0;
  static const OpEntry& entry() { return ops::avg_pool_op(); }
};

}  // namespace lockstep
