#pragma once

#include <cstdint>

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// Windows over the positions of a (positions, features): y[t, j F + f] = x[t + j - before, f], and 0 where
/// that lies outside. A dense layer behind it is a convolution over time, and the two together have its
/// weight as (out, width F).
const OpEntry& unfold_op();

}  // namespace lockstep::ops

namespace lockstep {

struct UnfoldAttrs {
  std::int64_t width = 3;   ///< positions of a window
  std::int64_t before = 1;  ///< of these before the position itself; width - 1 looks at the past alone
  static const OpEntry& entry() { return ops::unfold_op(); }
};

}  // namespace lockstep
