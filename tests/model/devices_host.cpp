// The CPU, and the CUDA executor with the host in the part of the GPU.

#include "model/cuda/host_engine.h"
#include "model/device_under_test.h"

namespace lockstep::test {

std::vector<DeviceUnderTest> devices_under_test() {
  std::vector<DeviceUnderTest> devices;
  const auto lanes = std::make_shared<LanePool>(2);
  devices.push_back({"cpu", cuda::Precision::fp32,
                     [lanes](const Graph& graph, const ExecutorOptions& options) {
                       return compile_cpu(graph, options, *lanes);
                     },
                     ""});
  const auto add = [&](const std::string& name, cuda::Precision precision, const HostLibrary& library = {}) {
    devices.push_back({"cuda_on_host_" + name, precision,
                       [=](const Graph& graph, const ExecutorOptions& options) -> std::unique_ptr<Executor> {
                         cuda::CudaOptions cuda_options;
                         cuda_options.precision = precision;
                         return make_host_engine(graph, options, cuda_options,
                                                 std::make_unique<HostMachine>(library), 512)
                             .executor;
                       },
                       ""});
  };
  add("fp32", cuda::Precision::fp32);
  add("bf16", cuda::Precision::bf16);
  add("fp16", cuda::Precision::fp16);
  add("tf32", cuda::Precision::tf32);
  add("fp32_nothing_fused", cuda::Precision::fp32, nothing_fused);
  add("bf16_nothing_fused", cuda::Precision::bf16, nothing_fused);
  return devices;
}

}  // namespace lockstep::test
