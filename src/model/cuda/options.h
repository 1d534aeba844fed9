#pragma once

#include <cstddef>
#include <string>

#include "model/cuda/numbers.h"

namespace lockstep::cuda {

/// What a CUDA executor is told besides ExecutorOptions. Everything but `graph` and `device_buffers` may
/// decide bits.
struct CudaOptions {
  Precision precision = Precision::fp32;
  bool deterministic = true;  ///< leave out library plans that may give other bits from run to run
  bool graph = true;          ///< capture kernels into CUDA graphs and launch those
  std::size_t workspace_bytes = std::size_t{1} << 30;  ///< no library plan may take more
  /// The flat parameters and gradient slots of StepInputs are addresses of this GPU; false: of the host, and
  /// the executor copies.
  bool device_buffers = false;
};

/// "fp32", "tf32", "bf16", "fp16"; throws ConfigError for any other text.
Precision precision_of(const std::string& text);

}  // namespace lockstep::cuda
