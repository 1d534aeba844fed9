#include "model/cuda/run/executor.h"

#include "model/cuda/run/engine.h"
#include "model/cuda/run/machine.h"

namespace lockstep {

std::unique_ptr<Executor> compile_cuda(const Graph& graph, const ExecutorOptions& options,
                                       const cuda::CudaOptions& cuda_options, const cuda::Stream& compute) {
  return std::make_unique<cuda::Engine<cuda::GpuMachine>>(
      graph, options, cuda_options,
      std::make_unique<cuda::GpuMachine>(cuda_options, options.plan_choice, compute, options.progress));
}

}  // namespace lockstep
