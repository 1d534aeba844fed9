#pragma once

#include <cstdint>

#include "core/numerics/bias_correction.h"
#include "optim/rules/factors.h"

namespace lockstep {

/// The factors of the update behind `updates` others that depend on how many there were. `lr`: of the
/// parameters that the factors are for.
LOCKSTEP_HOST_DEVICE inline void correct_bias(UpdateFactors& factors, double lr, double beta1, double beta2,
                                              std::int64_t updates) {
  const BiasCorrection correction = bias_correction(lr, beta1, beta2, updates);
  factors.step_size = correction.step_size;
  factors.root_correction = correction.root_correction;
  factors.mean_correction = bias_correction(1.0, beta1, beta2, updates).step_size;
}

}  // namespace lockstep
