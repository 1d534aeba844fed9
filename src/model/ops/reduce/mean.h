#pragma once

#include <cstdint>

#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& mean_op();

}  // namespace lockstep::ops

namespace lockstep {

/// The mean along one axis of a sample, which vanishes; of a value with one axis one number is left.
struct MeanAttrs {
  std::int64_t axis = 0;
  static constexpr bool mean = true;
  static const OpEntry& entry() { return ops::mean_op(); }
};

}  // namespace lockstep
