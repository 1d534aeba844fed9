#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

// Loops that the compiler vectorizes, for the instruction set of the machine they run on. Every sum has a
// fixed number of accumulators, so that bits do not depend on the width of a vector register; with
// contraction off
// (-ffp-contract=off) all clones of a function give the same bits.

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/// Compiles the function for several instruction sets; the loader picks one. Not under sanitizers, whose
/// runtime is not yet up when the loader asks which.
#define LOCKSTEP_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LOCKSTEP_CLONES
#endif

/// Before a loop whose iterations touch different elements; operands may be the same buffer.
#if defined(__clang__)
#define LOCKSTEP_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define LOCKSTEP_INDEPENDENT _Pragma("GCC ivdep")
#endif

/// A part of a function that has clones: it must be compiled for the caller's instruction set.
#define LOCKSTEP_INLINE [[gnu::always_inline]] inline

namespace lockstep::cpu {

/// Lanes of every blocked accumulation and of every loop over a channel block.
inline constexpr std::int64_t lanes = 16;

/// Four floats in one register of any machine, for the loops that the compiler does not vectorize by itself.
typedef float Four __attribute__((vector_size(16)));
typedef std::int32_t FourInts __attribute__((vector_size(16)));
LOCKSTEP_INLINE Four load_four(const float* p) {
  Four v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
LOCKSTEP_INLINE void store_four(float* p, const Four& v) {
  std::memcpy(p, &v, sizeof v);
}

/// e^x within 1 ulp (tests/model/cpu_softmax_test.cpp holds it against float64). NaN stays NaN, overflow is
/// infinity, results below the normal range are rounded to denormals or 0. Free of branches, so loops around
/// it vectorize. x = n ln 2 + r with |r| <= ln(2) / 2, e^r by its Taylor series to r^7 (remainder below
/// 6e-9), times 2^n in two steps, since 2^n alone leaves the range of float32 at both ends.
LOCKSTEP_INLINE float exp_float(float x) {
  constexpr float round_magic = 12582912.0f;      // 1.5 * 2^23: adding it rounds to an integer
  constexpr float ln2_high = 0.693145751953125f;  // 15 bits, so that n * ln2_high is exact
  constexpr float ln2_low = 1.42860677e-6f;       // ln 2 - ln2_high
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  const float shifted = x * 1.44269504f + round_magic;
  const float n = shifted - round_magic;
  const std::int32_t exponent =
      std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(round_magic);
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
    return std::bit_cast<float>((static_cast<std::uint32_t>(e) + 127u) << 23);
  };
  return y * power(first) *
         power(static_cast<std::int32_t>(static_cast<std::uint32_t>(exponent) -
                                         static_cast<std::uint32_t>(first)));
}

/// y[i] = e^(x[i] - shift). x and y may be the same.
void exp_shifted(const float* x, float shift, float* y, std::int64_t n);
/// The sum of x[0..n) in float64, over 16 accumulators.
double sum(const float* x, std::int64_t n);
/// The sum of a[i] * b[i] in float64, over 16 accumulators.
double dot(const float* a, const float* b, std::int64_t n);
/// The largest of x[0..n), n >= 1. NaN is passed over unless it is x[0].
float largest(const float* x, std::int64_t n);

}  // namespace lockstep::cpu
