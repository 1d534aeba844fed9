#pragma once

#include <cmath>
#include <cstdint>

#include "core/numerics/philox.h"

// Adam's correction of its averages, which begin at zero: Kingma and Ba, "Adam: A Method for Stochastic
// Optimization", ICLR 2015, section 3.

namespace lockstep {

/// Computed in float64 and rounded once.
struct BiasCorrection {
  float step_size = 0;        ///< lr / (1 - beta1^t)
  float root_correction = 1;  ///< sqrt(1 - beta2^t)

  friend constexpr bool operator==(const BiasCorrection&, const BiasCorrection&) = default;
};

/// beta^n by repeated squaring: only multiplications, so that no library's pow decides the bits.
LOCKSTEP_HOST_DEVICE constexpr double integer_power(double beta, std::int64_t n) {
  double result = 1.0;
  for (double base = beta; n > 0; n /= 2, base *= base) {
    if (n % 2 == 1) result *= base;
  }
  return result;
}

/// Of the update behind `updates` others, t = updates + 1. The host computes it where it knows how many there
/// were, and else the device: by the same operations, each rounded correctly.
LOCKSTEP_HOST_DEVICE inline BiasCorrection bias_correction(double lr, double beta1, double beta2,
                                                           std::int64_t updates) {
  return {static_cast<float>(lr / (1 - integer_power(beta1, updates + 1))),
          static_cast<float>(sqrt(1 - integer_power(beta2, updates + 1)))};
}

}  // namespace lockstep
