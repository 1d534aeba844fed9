#pragma once

#include <cstdint>
#include <cstring>

#include "core/numerics/exp_float.h"

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

/// y[i] = e^(x[i] - shift). x and y may be the same.
void exp_shifted(const float* x, float shift, float* y, std::int64_t n);
/// The sum of x[0..n) in float64, over 16 accumulators.
double sum(const float* x, std::int64_t n);
/// The sum of a[i] * b[i] in float64, over 16 accumulators.
double dot(const float* a, const float* b, std::int64_t n);
/// The largest of x[0..n), n >= 1. NaN is passed over unless it is x[0].
float largest(const float* x, std::int64_t n);

}  // namespace lockstep::cpu
