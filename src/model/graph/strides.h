#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/numerics/philox.h"
#include "core/shape.h"

// Where the elements of one row lie, as a number of steps along each axis: row-major as everywhere on the
// CPU, or with the channels last as images of a GPU. For ops that only move elements, and for sums along an
// axis.

namespace lockstep {

/// Axes that a value may have.
inline constexpr std::size_t most_axes = 4;

/// Extents and steps of a value's axes; missing axes have extent 1.
struct Strides {
  std::array<std::int64_t, most_axes> extent{1, 1, 1, 1};
  std::array<std::int64_t, most_axes> step{0, 0, 0, 0};
  std::int64_t row = 1;  ///< elements of a row

  Strides() = default;
  /// `channels_last`: as a GPU holds values of rank 3.
  explicit Strides(const Shape& shape, bool channels_last = false) : row(shape.elements()) {
    std::int64_t below = 1;
    for (std::size_t axis = shape.rank(); axis-- > 0;) {
      extent[axis] = shape[axis];
      step[axis] = below;
      below *= shape[axis];
    }
    if (channels_last && shape.rank() == 3) step = {1, shape[2] * shape[0], shape[0], 0};
  }
};

/// Copies a block of elements between two values, row by row: index (i0, i1, i2, i3) of `extent` from
/// from_offset + i . from_step to to_offset + i . to_step. (Plain arrays, for device code.)
struct BlockCopy {
  std::int64_t extent[most_axes] = {1, 1, 1, 1};
  std::int64_t from_step[most_axes] = {}, to_step[most_axes] = {};
  std::int64_t from_offset = 0, to_offset = 0;
  std::int64_t from_row = 1, to_row = 1;

  /// The whole of one value, into the whole of another one of equal extents.
  BlockCopy(const Strides& from, const Strides& to) : from_row(from.row), to_row(to.row) {
    for (std::size_t axis = 0; axis < most_axes; ++axis) {
      extent[axis] = to.extent[axis];
      from_step[axis] = from.step[axis];
      to_step[axis] = to.step[axis];
    }
  }
  LOCKSTEP_HOST_DEVICE std::int64_t elements() const { return extent[0] * extent[1] * extent[2] * extent[3]; }
  /// The places of element `i` of the block in row-major order, in row 0.
  LOCKSTEP_HOST_DEVICE void places(std::int64_t i, std::int64_t& from, std::int64_t& to) const {
    from = from_offset;
    to = to_offset;
    for (int axis = 3; axis >= 0; --axis) {
      const std::int64_t k = i % extent[axis];
      i /= extent[axis];
      from += k * from_step[axis];
      to += k * to_step[axis];
    }
  }
  /// The way back.
  BlockCopy reversed() const {
    BlockCopy back = *this;
    std::swap(back.from_step, back.to_step);
    std::swap(back.from_offset, back.to_offset);
    std::swap(back.from_row, back.to_row);
    return back;
  }
};

}  // namespace lockstep
