#pragma once

#include "model/graph/op_table.h"

namespace lockstep::ops {

/// y[n, o] = bias[o] + sum over i of w[o, i] * x[n, i]. Parameters: weight (O, I), bias (O).
OpEntry dense_op();

}  // namespace lockstep::ops
