#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep {

/// Extents, places and numbers of things are signed; the standard library's containers count in std::size_t.
constexpr std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

}  // namespace lockstep
