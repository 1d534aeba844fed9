#pragma once

#include "core/numerics/exp_float.h"

namespace lockstep {

// GELU (the formula at GeluAttrs) and its slope, for CPU and GPU alike: the same operations in the same order
// give the same bits. (1 + tanh(u)) / 2 = 1 / (1 + e^(-2u)); with e = e^(-|2u|) it is r = 1 / (1 + e) for
// positive u and e r for negative, 1 minus it the other of the two, so nothing cancels or overflows.

struct GeluParts {
  float x;      ///< kept where nothing overflows; beyond, e is 0 anyway
  float e;      ///< e^(-|2u|)
  float r;      ///< 1 / (1 + e)
  float share;  ///< (1 + tanh(u)) / 2
};

inline constexpr float gelu_scale = 1.5957691216f;        // 2 sqrt(2 / pi)
inline constexpr float gelu_cubic = 0.0713548163f;        // 0.044715 gelu_scale
inline constexpr float gelu_cubic_slope = 0.2140644488f;  // 3 gelu_cubic

LOCKSTEP_HOST_DEVICE __attribute__((always_inline)) inline GeluParts gelu_parts(float x) {
  GeluParts p;
  p.x = x > 16.0f ? 16.0f : x;
  p.x = p.x < -16.0f ? -16.0f : p.x;
  const float twice_u = p.x * (gelu_scale + gelu_cubic * (p.x * p.x));
  p.e = exp_float(twice_u > 0.0f ? -twice_u : twice_u);
  p.r = 1.0f / (1.0f + p.e);
  p.share = twice_u > 0.0f ? p.r : p.e * p.r;
  return p;
}

/// NaN at NaN and, as the formula, at minus infinity.
LOCKSTEP_HOST_DEVICE __attribute__((always_inline)) inline float gelu_of(float x) {
  return x * gelu_parts(x).share;
}

/// d gelu / dx = s + x s (1 - s) 2u': 1 and 0 at the infinities.
LOCKSTEP_HOST_DEVICE __attribute__((always_inline)) inline float gelu_slope(float x) {
  const GeluParts p = gelu_parts(x);
  const float bend = p.e * p.r * p.r;
  return p.share + p.x * bend * (gelu_scale + gelu_cubic_slope * (p.x * p.x));
}

}  // namespace lockstep
