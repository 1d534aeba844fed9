#pragma once

#include <memory>
#include <string>

#include "model/cpu/kernels/kernel.h"

namespace lockstep::cpu {

/// Normalisation of every line along the last axis of a plain value, then weight (and bias) by place:
///   y = (x - mean) / sqrt(variance + epsilon) * weight + bias, the biased variance about `mean`;
/// layer norm takes the line's mean, RMS norm takes 0 for it.
struct LineNormOptions {
  std::string name;
  double epsilon = 1e-5;
  bool centred = true;  ///< false: RMS norm
  bool bias = true;
};
std::unique_ptr<Kernel> make_line_norm(const KernelSpec& spec, const LineNormOptions& options);

}  // namespace lockstep::cpu
