#include "trainer/step/device_step_cuda.h"

#include "model/cuda/run/queue.h"
#include "trainer/step/machine_step.h"

namespace lockstep {

std::unique_ptr<DeviceStep> make_cuda_step(const cuda::Stream& compute,
                                           std::function<void(const cuda::Event&)> wait) {
  return std::make_unique<MachineStep<cuda::GpuQueue>>(
      std::make_unique<cuda::GpuQueue>(compute, std::move(wait)));
}

}  // namespace lockstep
