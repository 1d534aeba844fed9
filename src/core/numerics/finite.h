#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "core/numerics/philox.h"

namespace lockstep {

/// Whether no value is NaN or infinite. As fast as memory is read; allocates nothing.
bool all_finite(std::span<const float> values);

/// What is kept of a block of a gradient: 0 where all of it is finite, NaN elsewhere. So a sum of marks is
/// finite when everything is, and whoever adds up numbers of blocks anyway (core/numerics/tree.h) needs no
/// other way for them.
inline constexpr double not_finite_mark = std::numeric_limits<double>::quiet_NaN();
LOCKSTEP_HOST_DEVICE constexpr double finite_mark(bool finite) {
  return finite ? 0.0 : not_finite_mark;
}

}  // namespace lockstep
