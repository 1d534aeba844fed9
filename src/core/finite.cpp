#include "core/finite.h"

#include <algorithm>
#include <cstring>

#include "core/simd.h"

namespace lockstep {
namespace {

/// A float is NaN or infinite when all bits of its exponent are set: adding one to the exponent then carries
/// into the sign bit, once that has been cleared.
LOCKSTEP_TARGET_CLONES
bool chunk_finite(const float* values, std::size_t n) {
  std::uint32_t seen = 0;
  for (std::size_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    seen |= (bits & 0x7fffffffu) + 0x00800000u;
  }
  return (seen & 0x80000000u) == 0;
}

constexpr std::size_t chunk = 1 << 16;

}  // namespace

bool all_finite(std::span<const float> values) {
  for (std::size_t at = 0; at < values.size(); at += chunk)
    if (!chunk_finite(values.data() + at, std::min(chunk, values.size() - at))) return false;
  return true;
}

}  // namespace lockstep
