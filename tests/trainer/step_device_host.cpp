#include "model/cuda_host_machine.h"
#include "trainer/step/machine_step.h"
#include "trainer/step_device.h"

namespace lockstep::test {

/// The host in the part of a GPU.
ComputeDevice step_device(bool resident, cuda::Precision precision, int) {
  ComputeDevice device;
  device.name = "cuda_on_host";
  device.compile = [precision](const Graph& graph, const ExecutorOptions& options, LanePool&, Timeline*) {
    cuda::CudaOptions cuda_options;
    cuda_options.precision = precision;
    return std::make_unique<cuda::Engine<HostMachine>>(graph, options, cuda_options,
                                                       std::make_unique<HostMachine>(), 700);
  };
  if (resident)
    device.make_step = [] {
      return std::make_unique<MachineStep<HostMachine>>(std::make_unique<HostMachine>());
    };
  device.scales_loss = precision == cuda::Precision::fp16;
  return device;
}

std::string step_device_missing() {
  return "";
}

}  // namespace lockstep::test
