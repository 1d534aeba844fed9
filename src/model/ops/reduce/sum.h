#pragma once

#include <cstdint>

#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& sum_op();

}  // namespace lockstep::ops

namespace lockstep {

/// The sum along one axis of a sample, which vanishes; of a value with one axis one number is left.
struct SumAttrs {
  std::int64_t axis = 0;
  static constexpr bool mean = false;
  static const OpEntry& entry() { return ops::sum_op(); }
};

}  // namespace lockstep
