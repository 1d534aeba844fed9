#pragma once

#include <cstdint>

#include "core/numerics/precision.h"

// The number formats that activations are stored in. Everything is computed in float32.
//
// A GPU has instructions for the conversions. They round as core/numerics/precision.h does, keep denormals
// and give the same NaN (PTX ISA, cvt). Only a NaN that is widened may have other bits, as everywhere in
// float32.

#if defined(__CUDA_ARCH__)
#if __CUDA_ARCH__ >= 800
#define LOCKSTEP_CONVERT_IN_HARDWARE
#endif
#endif

namespace lockstep::cuda {

struct Bf16 {
  std::uint16_t bits;
};
struct Fp16 {
  std::uint16_t bits;
};

LOCKSTEP_HOST_DEVICE inline float load(float x) {
  return x;
}
LOCKSTEP_HOST_DEVICE inline float load(Bf16 x) {
  return bf16_to_float(x.bits);
}
LOCKSTEP_HOST_DEVICE inline float load(Fp16 x) {
#ifdef LOCKSTEP_CONVERT_IN_HARDWARE
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  return fp16_to_float(x.bits);
#endif
}

LOCKSTEP_HOST_DEVICE inline void store(float& at, float x) {
  at = x;
}
LOCKSTEP_HOST_DEVICE inline void store(Bf16& at, float x) {
#ifdef LOCKSTEP_CONVERT_IN_HARDWARE
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(at.bits) : "f"(x));
#else
  at.bits = float_to_bf16(x);
#endif
}
LOCKSTEP_HOST_DEVICE inline void store(Fp16& at, float x) {
#ifdef LOCKSTEP_CONVERT_IN_HARDWARE
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(at.bits) : "f"(x));
#else
  at.bits = float_to_fp16(x);
#endif
}

template <class T>
LOCKSTEP_HOST_DEVICE inline float as_stored(float x) {
  T stored;
  store(stored, x);
  return load(stored);
}

/// The largest positive number that is stored as 0: half of the smallest one, a tie.
LOCKSTEP_HOST_DEVICE constexpr float stored_as_zero(float) {
  return 0.0f;
}
LOCKSTEP_HOST_DEVICE constexpr float stored_as_zero(Bf16) {
  return 0x1p-134f;
}
LOCKSTEP_HOST_DEVICE constexpr float stored_as_zero(Fp16) {
  return 0x1p-25f;
}

/// Two neighbours in one word, the first in its lower half.
LOCKSTEP_HOST_DEVICE inline void load_two(Bf16, std::uint32_t word, float& first, float& second) {
  first = __builtin_bit_cast(float, word << 16);
  second = __builtin_bit_cast(float, word & 0xffff0000u);
}
LOCKSTEP_HOST_DEVICE inline void load_two(Fp16, std::uint32_t word, float& first, float& second) {
  first = load(Fp16{static_cast<std::uint16_t>(word & 0xffffu)});
  second = load(Fp16{static_cast<std::uint16_t>(word >> 16)});
}
LOCKSTEP_HOST_DEVICE inline std::uint32_t store_two(Bf16, float first, float second) {
#ifdef LOCKSTEP_CONVERT_IN_HARDWARE
  std::uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
#else
  return float_to_bf16(first) | static_cast<std::uint32_t>(float_to_bf16(second)) << 16;
#endif
}
LOCKSTEP_HOST_DEVICE inline std::uint32_t store_two(Fp16, float first, float second) {
#ifdef LOCKSTEP_CONVERT_IN_HARDWARE
  std::uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
#else
  return float_to_fp16(first) | static_cast<std::uint32_t>(float_to_fp16(second)) << 16;
#endif
}

using lockstep::Precision;

/// Bytes of a stored activation.
constexpr std::size_t bytes_of(Precision precision) {
  return precision == Precision::fp32 || precision == Precision::tf32 ? 4 : 2;
}

}  // namespace lockstep::cuda
