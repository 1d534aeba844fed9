#pragma once

#include <cstdint>

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// The largest element of each window; padding never wins. Of equal elements the first in row-major order of
/// the window takes the gradient.
const OpEntry& max_pool_op();

}  // namespace lockstep::ops

namespace lockstep {

struct MaxPoolAttrs {
  std::int64_t kernel_h = 0, kernel_w = 0, stride_h = 0, stride_w = 0, pad_h = 0, pad_w = 0;
  static const OpEntry& entry() { return ops::max_pool_op(); }
};

}  // namespace lockstep
