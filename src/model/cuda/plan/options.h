#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "model/cuda/kernels/numbers.h"

namespace lockstep::cuda {

class Event;
class PlanTuner;

/// What a CUDA executor is told besides ExecutorOptions. Everything but `graph` and `device_buffers` may
/// decide bits.
struct CudaOptions {
  Precision precision = Precision::fp32;
  bool deterministic = true;  ///< leave out library plans that may give other bits from run to run
  bool graph = true;          ///< capture kernels into CUDA graphs and launch those
  /// Compute batch norm together with convolutions, GELU and bias gradients with dense layers, where
  /// libraries can.
  bool fuse = true;
  /// In float16, take sums that a convolution makes of its result too (ConvPass::forward_sums): not before a
  /// device has shown that they are made in float32, see is_trusted().
  bool half_sums = false;
  std::size_t workspace_bytes = std::size_t{1} << 30;  ///< no library plan may take more
  /// Measures plans and remembers them; shared by the executors of a process. Null: the heuristics choose.
  std::shared_ptr<PlanTuner> tuner;
  /// How the host waits for the device where peers may fail meanwhile; empty: it just waits.
  std::function<void(const Event&)> wait;
};

}  // namespace lockstep::cuda
