#pragma once

#include <cstdint>

namespace lockstep {

/// A half-open range of elements of a flat buffer.
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  constexpr std::int64_t size() const { return end - begin; }
  friend constexpr bool operator==(const Range&, const Range&) = default;
};

/// Totals of one range of the flat gradient, readable until the next begin_step().
struct TotalView {
  Range range;
  const float* data;  ///< data[0] is the total of element range.begin
};

}  // namespace lockstep
