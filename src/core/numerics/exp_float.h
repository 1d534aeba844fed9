#pragma once

#include <cstdint>

#include "core/numerics/philox.h"

namespace lockstep {

/// e^x within 1 ulp (tests/model/cpu/softmax_test.cpp holds it against float64). NaN stays NaN, overflow is
/// infinity, results below the normal range are rounded to denormals or 0. Free of branches, so loops around
/// it vectorize, and made of operations that IEEE 754 rounds, so every vector width and a GPU give the same
/// bits. x = n ln 2 + r with |r| <= ln(2) / 2, e^r by its Taylor series to r^7 (remainder below 6e-9), times
/// 2^n in two steps, since 2^n alone leaves the range of float32 at both ends.
/// (__builtin_bit_cast is what std::bit_cast calls, which device code may not.)
LOCKSTEP_HOST_DEVICE __attribute__((always_inline)) inline float exp_float(float x) {
  constexpr float round_magic = 12582912.0f;      // 1.5 * 2^23: adding it rounds to an integer
  constexpr float ln2_high = 0.693145751953125f;  // 15 bits, so that n * ln2_high is exact
  constexpr float ln2_low = 1.42860677e-6f;       // ln 2 - ln2_high
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  const float shifted = x * 1.44269504f + round_magic;
  const float n = shifted - round_magic;
  const std::int32_t exponent =
      __builtin_bit_cast(std::int32_t, shifted) - __builtin_bit_cast(std::int32_t, round_magic);
  const float r = (x - n * ln2_high) - n * ln2_low;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  const float y = 1.0f + (r + (r * r) * p);
  // Unsigned arithmetic: a NaN leaves any bits in `exponent`, and y is NaN then whatever the factors are.
  const std::int32_t first = exponent >> 1;
  const auto power = [](std::int32_t e) {
    return __builtin_bit_cast(float, (static_cast<std::uint32_t>(e) + 127u) << 23);
  };
  return y * power(first) *
         power(static_cast<std::int32_t>(static_cast<std::uint32_t>(exponent) -
                                         static_cast<std::uint32_t>(first)));
}

}  // namespace lockstep
