#include "model/cuda/host_engine.h"
#include "trainer/step/host_step.h"
#include "trainer/step/step_device.h"

namespace lockstep::test {

/// The host in the part of a GPU.
ComputeDevice step_device(bool resident, cuda::Precision precision, int) {
  ComputeDevice device;
  device.name = "cuda_on_host";
  device.compile = [precision](const Graph& graph, const ExecutorOptions& options, LanePool&, Timeline*) {
    cuda::CudaOptions cuda_options;
    cuda_options.precision = precision;
    return make_host_engine(graph, options, cuda_options, std::make_unique<HostMachine>(), 700).executor;
  };
  if (resident) device.make_step = [] { return make_host_step(std::make_unique<HostMachine>()); };
  device.scales_loss = precision == cuda::Precision::fp16;
  return device;
}

std::string step_device_missing() {
  return "";
}

}  // namespace lockstep::test
