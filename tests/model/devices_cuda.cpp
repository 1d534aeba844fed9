// The GPU, in every precision. Where there is none, the tests say so.

#include <fmt/format.h>

#include "core/error.h"
#include "device/cuda/device.h"
#include "model/cuda/run/executor.h"
#include "model/device_under_test.h"

namespace lockstep::test {
namespace {

/// One GPU for the whole program, made current for its one thread.
struct Gpu {
  explicit Gpu(const GpuInfo& info) : device(info), compute(cuda::Stream::create()) {}
  cuda::Device device;
  cuda::Stream compute;
};

}  // namespace

std::vector<DeviceUnderTest> devices_under_test() {
  const GpuProbe probe = cuda::probe_gpus();
  const auto gpu = std::make_shared<std::unique_ptr<Gpu>>();
  std::vector<DeviceUnderTest> devices;
  const auto add = [&](const std::string& name, cuda::Precision precision, bool graph, bool fuse = true) {
    DeviceUnderTest device;
    device.name = name;
    device.precision = precision;
    if (probe.gpus.empty()) device.missing = "there is no GPU: " + probe.problem;
    device.compile = [gpu, probe, precision, graph, fuse](const lockstep::Graph& model,
                                                          const ExecutorOptions& options) {
      // Made on first use: listing the tests must not need a GPU.
      if (!*gpu) *gpu = std::make_unique<Gpu>(probe.gpus.at(0));
      cuda::CudaOptions cuda_options;
      cuda_options.precision = precision;
      cuda_options.graph = graph;
      cuda_options.fuse = fuse;
      return compile_cuda(model, options, cuda_options, (*gpu)->compute);
    };
    devices.push_back(std::move(device));
  };
  add("cuda_fp32", cuda::Precision::fp32, true);
  add("cuda_fp32_uncaptured", cuda::Precision::fp32, false);
  add("cuda_tf32", cuda::Precision::tf32, true);
  add("cuda_bf16", cuda::Precision::bf16, true);
  add("cuda_fp16", cuda::Precision::fp16, true);
  add("cuda_bf16_separate", cuda::Precision::bf16, true, false);
  add("cuda_fp16_separate", cuda::Precision::fp16, true, false);
  return devices;
}

}  // namespace lockstep::test
