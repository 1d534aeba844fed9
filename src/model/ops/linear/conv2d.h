#pragma once

#include <cstdint>

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// y[n, o, y, x] = bias[o] + sum over (i, ky, kx) of w[o, i, ky, kx] * x[n, g*I + i, y*stride - pad + ky,
/// ...], where g is the group of output channel o and I the input channels of a group: cross-correlation, as
/// in every framework. Grouped: input and output channels must divide by the groups. Parameters: weight (O,
/// C/groups, kh, kw), bias (O).
const OpEntry& conv2d_op();

}  // namespace lockstep::ops

namespace lockstep {

struct Conv2dAttrs {
  std::int64_t out_channels = 0;
  std::int64_t kernel_h = 0, kernel_w = 0;
  std::int64_t stride_h = 1, stride_w = 1;
  std::int64_t pad_h = 0, pad_w = 0;  ///< zeros on both sides
  std::int64_t groups = 1;
  bool bias = true;
  static const OpEntry& entry() { return ops::conv2d_op(); }
};

}  // namespace lockstep
