#pragma once

#include <cstdint>

#include "core/numerics/philox.h"
#include "model/graph/strides.h"

namespace lockstep::cuda {

/// Where element i of a row in row-major order lies on a GPU: values of rank 3 are channels-last.
struct RowPlaces {
  std::int64_t extent[most_axes], step[most_axes];
  explicit RowPlaces(const Shape& shape) {
    const Strides strides(shape, true);
    for (std::size_t axis = 0; axis < most_axes; ++axis) {
      extent[axis] = strides.extent[axis];
      step[axis] = strides.step[axis];
    }
  }
  LOCKSTEP_HOST_DEVICE std::int64_t at(std::int64_t i) const {
    std::int64_t place = 0;
    for (int axis = 3; axis >= 0; --axis) {
      place += i % extent[axis] * step[axis];
      i /= extent[axis];
    }
    return place;
  }
};

}  // namespace lockstep::cuda
