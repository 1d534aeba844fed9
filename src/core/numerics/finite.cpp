#include "core/numerics/finite.h"

#include <algorithm>
#include <cstring>

#include "core/simd.h"

namespace lockstep {
namespace {

/// A float is NaN or infinite when all bits of its exponent are set: adding one to the exponent then carries
/// into the sign bit, once that has been cleared.
[[gnu::always_inline]] inline std::uint32_t carried(const float* value) {
  std::uint32_t bits;
  std::memcpy(&bits, value, sizeof bits);
  return (bits & 0x7fffffffu) + 0x00800000u;
}

/// Asked for ahead, since the processor stops fetching ahead by itself at the end of a page. Measured over
/// 23 MB that lie in no near cache: a quarter to a third faster than none, and than twice as far.
constexpr std::size_t prefetched = 512;
constexpr std::size_t stride = 64;

LOCKSTEP_TARGET_CLONES
bool chunk_finite(const float* values, std::size_t n) {
  std::uint32_t seen = 0;
  std::size_t i = 0;
  for (; i + stride <= n; i += stride) {
    for (std::size_t line = 0; line < stride; line += 16) __builtin_prefetch(values + i + prefetched + line);
    for (std::size_t j = 0; j < stride; ++j) seen |= carried(values + i + j);
  }
  for (; i < n; ++i) seen |= carried(values + i);
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
