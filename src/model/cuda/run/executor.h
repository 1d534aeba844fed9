#pragma once

#include <memory>

#include "device/cuda/stream.h"
#include "model/cuda/plan/options.h"
#include "model/plan/executor.h"

namespace lockstep {

/// Compiles for the current GPU. `compute` must outlive the executor; everything is ordered on it. A training
/// and an inference executor of one graph have the same layout(). Throws DeviceError where no library plan
/// fits.
///
/// train() tells its listener of a range when the kernels that complete it were enqueued on `compute`
/// (device_buffers), or when it lies in the roots (without). It returns when the losses are known.
std::unique_ptr<Executor> compile_cuda(const Graph& graph, const ExecutorOptions& options,
                                       const cuda::CudaOptions& cuda_options, const cuda::Stream& compute);

}  // namespace lockstep
