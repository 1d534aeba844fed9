#include <cublasLt.h>
#include <cudnn.h>
#include <fmt/format.h>
#include <memory>

#include "comm/cuda/hosted_sync.h"
#include "comm/cuda/nccl_sync.h"
#include "device/cuda/device.h"
#include "model/cuda/executor.h"
#include "trainer/device_table.h"

namespace lockstep {
namespace {

std::string compute_libraries() {
  const std::size_t dnn = cudnnGetVersion();  // since 9: major * 10000 + minor * 100 + patch
  const std::size_t blas = cublasLtGetVersion();
  return fmt::format("cuDNN {}.{}.{}, cuBLASLt {}.{}.{}", dnn / 10000, dnn / 100 % 100, dnn % 100,
                     blas / 10000, blas / 100 % 100, blas % 100);
}

std::string library_versions() {
  return fmt::format("{}, {}, {}", cuda::runtime_version(), compute_libraries(),
                     cuda::NcclCommunicator::version());
}

/// The rank's GPU and the stream that everything it computes is ordered on. Shared by what is compiled for
/// it.
struct OpenGpu {
  explicit OpenGpu(const GpuInfo& info) : device(info), compute(cuda::Stream::create()) {}
  cuda::Device device;
  cuda::Stream compute;
};

cuda::CudaOptions cuda_options(const Config& config) {
  cuda::CudaOptions options;
  options.precision = cuda::precision_of(config.train.precision);
  options.deterministic = config.device.deterministic;
  options.graph = config.device.graph;
  options.workspace_bytes = static_cast<std::size_t>(config.device.workspace_mb) << 20;
  return options;
}

/// The step keeps gradients and parameters in host memory, so that checkpoints, checks and the optimizer are
/// those of the CPU; NCCL sees copies of them on the GPU.
std::unique_ptr<GradientSync> nccl_sync(Communicator& comm, const GpuInfo& gpu, double timeout_s,
                                        std::int64_t elements, const GradientSyncOptions& options) {
  auto stream = std::make_unique<cuda::Stream>(cuda::Stream::create(cuda::Stream::Priority::high));
  auto device =
      std::make_unique<cuda::NcclSync>(comm, gpu, cuda::NcclOptions{timeout_s}, elements, options, *stream);
  return std::make_unique<cuda::HostedSync>(std::move(stream), std::move(device), elements, options,
                                            comm.size());
}

ComputeDevice open_gpu(const GpuInfo& info, bool shared, const Config& config) {
  const auto gpu = std::make_shared<OpenGpu>(info);
  const cuda::CudaOptions options = cuda_options(config);
  ComputeDevice device;
  device.name = "cuda";
  // The driver decides no bit.
  device.fingerprint =
      fmt::format("{}, {} multiprocessors, {}", info.name, info.multiprocessors, compute_libraries());
  device.picks_plans = true;
  device.scales_loss = options.precision == cuda::Precision::fp16;
  device.compile = [gpu, options](const Graph& graph, const ExecutorOptions& executor, LanePool&, Timeline*) {
    return compile_cuda(graph, executor, options, gpu->compute);
  };
  if (!shared && config.comm.backend != "mpi") {
    const double timeout_s = config.watchdog.timeout;
    device.make_sync = [gpu, timeout_s, host = device.make_sync](Communicator& comm, std::int64_t elements,
                                                                 const GradientSyncOptions& sync,
                                                                 Timeline* timeline) {
      if (comm.size() == 1) return host(comm, elements, sync, timeline);
      return nccl_sync(comm, gpu->device.info(), timeout_s, elements, sync);
    };
  }
  return device;
}

}  // namespace

std::vector<DeviceEntry> accelerators() {
  DeviceEntry entry;
  entry.name = "cuda";
  entry.built = true;
  entry.libraries = library_versions();
  entry.probe = cuda::probe_gpus;
  entry.open = open_gpu;
  return {entry};
}

}  // namespace lockstep
