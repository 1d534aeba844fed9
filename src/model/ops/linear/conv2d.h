#pragma once

#include "model/graph/op_table.h"

namespace lockstep::ops {

/// y[n, o, y, x] = bias[o] + sum over (i, ky, kx) of w[o, i, ky, kx] * x[n, g*I + i, y*stride - pad + ky,
/// ...], where g is the group of output channel o and I the input channels of a group: cross-correlation, as
/// in every framework. Grouped: input and output channels must divide by the groups. Parameters: weight (O,
/// C/groups, kh, kw), bias (O).
OpEntry conv2d_op();

}  // namespace lockstep::ops
