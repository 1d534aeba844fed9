#include "comm/cuda/nccl_sync.h"
#include "comm/cuda/staged_sync.h"
#include "device/cuda/device.h"
#include "model/cuda/run/executor.h"
#include "trainer/step/device_step_cuda.h"
#include "trainer/step/step_device.h"

namespace lockstep::test {

/// Ranks are threads here, and share the first GPU; so their sums go through the host. One rank by itself has
/// the synchroniser of NCCL, which only enqueues.
ComputeDevice step_device(bool resident, cuda::Precision precision, int ranks) {
  struct Gpu {
    cuda::Device device{cuda::probe_gpus().gpus.at(0)};
    cuda::Stream compute = cuda::Stream::create();
  };
  const auto gpu = std::make_shared<Gpu>();
  ComputeDevice device;
  device.name = "cuda";
  device.compile = [gpu, precision](const Graph& graph, const ExecutorOptions& options, LanePool&,
                                    Timeline*) {
    cuda::CudaOptions cuda_options;
    cuda_options.precision = precision;
    return compile_cuda(graph, options, cuda_options, gpu->compute);
  };
  if (resident) {
    device.make_sync = [gpu](Communicator& comm, std::int64_t elements, const GradientSyncOptions& options,
                             Timeline* timeline) -> std::unique_ptr<GradientSync> {
      if (comm.size() == 1)
        return std::make_unique<cuda::NcclSync>(comm, gpu->device.info(), cuda::NcclOptions{}, elements,
                                                options, gpu->compute);
      return std::make_unique<cuda::StagedSync>(comm, GradientSync::create(comm, elements, options, timeline),
                                                elements, options, gpu->compute);
    };
    device.only_enqueues = device.captures_steps = ranks == 1;
    device.make_step = [gpu] { return make_cuda_step(gpu->compute, {}); };
  }
  device.picks_plans = true;
  device.scales_loss = precision == cuda::Precision::fp16;
  return device;
}

std::string step_device_missing() {
  const GpuProbe probe = cuda::probe_gpus();
  return probe.gpus.empty() ? "there is no GPU: " + probe.problem : "";
}

}  // namespace lockstep::test
