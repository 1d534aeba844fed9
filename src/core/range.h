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

}  // namespace lockstep
