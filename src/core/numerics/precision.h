#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/numerics/philox.h"

// The 16-bit floating-point formats and their conversions, as functions of bits: what a GPU's conversion
// instructions do (round to nearest, ties to even, NaN kept), so that host and device agree.
// (__builtin_bit_cast is what std::bit_cast calls, which device code may not.)

namespace lockstep {

/// How a plan computes. Weights, statistics, the loss and all sums are float32 or wider in every precision.
/// tf32 stores float32 and lets matrix products round their factors to 11 bits; bf16 and fp16 round them to
/// 16 bits, and store values so where every op that reads them takes them.
enum class Precision { fp32, tf32, bf16, fp16 };

/// "fp32", "tf32", "bf16" or "fp16"; throws ConfigError that names train.precision for any other text.
Precision precision_of(const std::string& text);
const char* name_of(Precision precision);

/// The format in which one value of a plan is stored.
enum class NumberFormat { fp32, bf16 };
constexpr std::size_t bytes_of(NumberFormat format) {
  return format == NumberFormat::fp32 ? 4 : 2;
}

/// bfloat16: the upper half of a float32. Values beyond the largest bfloat16 round to infinity.
LOCKSTEP_HOST_DEVICE constexpr std::uint16_t float_to_bf16(float x) {
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;  // the NaN that GPUs give (PTX ISA, cvt)
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
LOCKSTEP_HOST_DEVICE constexpr float bf16_to_float(std::uint16_t x) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(x) << 16);
}

/// IEEE 754 binary16: 5 bits of exponent, 10 of fraction, denormals kept. From 65520 on: infinity.
LOCKSTEP_HOST_DEVICE constexpr std::uint16_t float_to_fp16(float x) {
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fffu;                                      // NaN
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // at least 65520
  if (magnitude >= 0x38800000u) {                           // at least 2^-14, the smallest normal number
    const std::uint32_t rebased = magnitude - 0x38000000u;  // exponent bias 127 to 15
    return static_cast<std::uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
  }
  if (magnitude < 0x33000000u) return static_cast<std::uint16_t>(sign);  // below 2^-25: zero
  // Denormal: the result counts units of 2^-24. The fraction with its hidden bit counts 2^(e - 150).
  const std::uint32_t shift = 126u - (magnitude >> 23);  // 14 to 24
  const std::uint32_t fraction = (magnitude & 0x7fffffu) | 0x800000u;
  const std::uint32_t kept = fraction >> shift, lost = fraction & ((1u << shift) - 1u);
  const std::uint32_t half = 1u << (shift - 1u);
  const std::uint32_t up = lost > half || (lost == half && (kept & 1u) != 0u) ? 1u : 0u;
  return static_cast<std::uint16_t>(sign | (kept + up));
}
LOCKSTEP_HOST_DEVICE constexpr float fp16_to_float(std::uint16_t x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x & 0x8000u) << 16;
  const std::uint32_t magnitude = x & 0x7fffu;
  if (magnitude >= 0x7c00u)  // infinity, NaN
    return __builtin_bit_cast(float, sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x400u) return __builtin_bit_cast(float, sign | ((magnitude << 13) + 0x38000000u));
  const float value = static_cast<float>(magnitude) * 0x1p-24f;  // exact
  return sign != 0 ? -value : value;
}

/// The unit roundoff of a computation: half the distance from 1 to the next number.
inline constexpr double unit_roundoff_fp32 = 0x1p-24;
inline constexpr double unit_roundoff_tf32 = 0x1p-11;
inline constexpr double unit_roundoff_bf16 = 0x1p-8;
inline constexpr double unit_roundoff_fp16 = 0x1p-11;

}  // namespace lockstep
