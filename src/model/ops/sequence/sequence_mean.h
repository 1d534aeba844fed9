#pragma once

#include <cstdint>

#include "core/numerics/philox.h"
#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// The mean over the positions of a (positions, features) up to the row's length: y[f] = sum of x[t, f] over
/// t < length, divided by length; zeros of a row of length 0. Sums run in float64 over tiles of 64 positions,
/// counted from the row's own position 0, so that they do not depend on the length class.
const OpEntry& sequence_mean_op();

}  // namespace lockstep::ops

namespace lockstep {

struct SequenceMeanAttrs {
  static const OpEntry& entry() { return ops::sequence_mean_op(); }
};

/// Positions that are summed at once.
inline constexpr std::int64_t position_tile = 64;

/// The mean of `length` numbers, `step` apart. `load(i)`: number at place i, in float64.
template <class Load>
LOCKSTEP_HOST_DEVICE double tiled_mean(std::int64_t length, Load load) {
  double sum = 0;
  for (std::int64_t begin = 0; begin < length; begin += position_tile) {
    double tile = 0;
    for (std::int64_t t = begin; t < begin + position_tile && t < length; ++t) tile += load(t);
    sum += tile;
  }
  return length > 0 ? sum / static_cast<double>(length) : 0.0;
}

}  // namespace lockstep
