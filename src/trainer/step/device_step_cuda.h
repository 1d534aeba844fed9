#pragma once

#include <functional>
#include <memory>

#include "device/cuda/device.h"
#include "trainer/step/device_step.h"

namespace lockstep {

/// The step of the current GPU. `compute` must outlive it; `wait` as in cuda::CudaOptions.
std::unique_ptr<DeviceStep> make_cuda_step(const cuda::Stream& compute,
                                           std::function<void(const cuda::Event&)> wait);

}  // namespace lockstep
