#pragma once

#include <cstdint>

#include "core/precision.h"

// The number formats that activations are stored in. Everything is computed in float32.

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
  return fp16_to_float(x.bits);
}

LOCKSTEP_HOST_DEVICE inline void store(float& at, float x) {
  at = x;
}
LOCKSTEP_HOST_DEVICE inline void store(Bf16& at, float x) {
  at.bits = float_to_bf16(x);
}
LOCKSTEP_HOST_DEVICE inline void store(Fp16& at, float x) {
  at.bits = float_to_fp16(x);
}

/// How a step computes. tf32 stores float32 and lets matrix products round their factors to 11 bits.
enum class Precision { fp32, tf32, bf16, fp16 };

/// Bytes of a stored activation.
constexpr std::size_t bytes_of(Precision precision) {
  return precision == Precision::fp32 || precision == Precision::tf32 ? 4 : 2;
}

}  // namespace lockstep::cuda
