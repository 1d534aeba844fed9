#pragma once

#include <cstdint>

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// y[n, o] = bias[o] + sum over i of w[o, i] * x[n, i]. Parameters: weight (O, I), bias (O).
const OpEntry& dense_op();

}  // namespace lockstep::ops

namespace lockstep {

struct DenseAttrs {
  std::int64_t out_features = 0;
  bool bias = true;
  static const OpEntry& entry() { return ops::dense_op(); }
};

}  // namespace lockstep
