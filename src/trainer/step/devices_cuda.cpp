#include <algorithm>
#include <cstdlib>
#include <cublasLt.h>
#include <cudnn.h>
#include <fmt/format.h>
#include <memory>

#include "comm/cuda/nccl_sync.h"
#include "comm/cuda/staged_sync.h"
#include "core/error.h"
#include "core/file.h"
#include "device/cuda/device.h"
#include "model/cuda/run/executor.h"
#include "model/cuda/tuning/plan_tuner.h"
#include "trainer/step/device_step_cuda.h"
#include "trainer/step/device_table.h"
#include "watch/watchdog.h"

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
  options.precision = precision_of(config.train.precision);
  options.deterministic = config.device.deterministic;
  options.graph = config.device.graph;
  options.fuse = config.device.fuse;
  options.workspace_bytes = static_cast<std::size_t>(config.device.workspace_mb) << 20;
  return options;
}

/// The driver itself, whose version the runtime does not tell; empty where the system does not either.
std::string driver_version() {
  try {
    const std::string text = read_file("/proc/driver/nvidia/version", Empty::allow);
    return text.substr(0, std::min<std::size_t>(text.find('\n'), 200));
  } catch (const InputError&) {
    return {};
  }
}

std::shared_ptr<cuda::PlanTuner> make_tuner(const GpuInfo& info, const Config& config) {
  cuda::TuningCircumstances c;
  c.device = fmt::format("{}, {} multiprocessors", info.name, info.multiprocessors);
  c.capability_major = info.capability_major;
  c.capability_minor = info.capability_minor;
  c.driver = cuda::runtime_version() + ", " + driver_version();
  c.libraries = compute_libraries();
  c.precision = config.train.precision;
  c.deterministic = config.device.deterministic;
  c.workspace_bytes = static_cast<std::size_t>(config.device.workspace_mb) << 20;
  return std::make_shared<cuda::PlanTuner>(
      c, cuda::plan_cache_path(config.device.plan_cache, [](const char* name) { return std::getenv(name); }));
}

ComputeDevice open_gpu(const GpuInfo& info, bool shared, const Config& config) {
  const auto gpu = std::make_shared<OpenGpu>(info);
  cuda::CudaOptions options = cuda_options(config);
  if (config.device.autotune) options.tuner = make_tuner(info, config);
  // Where peers take part, the host waits through the synchroniser, which sees their failures.
  const auto waiting = std::make_shared<cuda::DeviceGradientSync*>(nullptr);
  options.wait = [waiting](const cuda::Event& event) {
    if (*waiting != nullptr)
      (*waiting)->wait(event);
    else
      event.synchronize();
  };
  ComputeDevice device;
  device.name = "cuda";
  // The driver decides no bit.
  device.fingerprint =
      fmt::format("{}, {} multiprocessors, {}", info.name, info.multiprocessors, compute_libraries());
  if (options.precision != Precision::fp32)
    device.fingerprint += std::string(", precision ") + name_of(options.precision);
  device.picks_plans = true;
  device.transforms_fields = true;
  if (options.tuner)
    device.take_notes = [tuner = options.tuner]() -> DeviceNotes {
      const cuda::TuningReport report = tuner->take_report();
      if (report.empty()) return {};
      return {cuda::describe(report), report.cache_problem};
    };
  device.scales_loss = options.precision == cuda::Precision::fp16;
  device.compile = [gpu, options](const Graph& graph, const ExecutorOptions& executor, LanePool&, Timeline*) {
    return compile_cuda(graph, executor, options, gpu->compute);
  };
  // Parameters, gradients and optimizer state lie in the GPU's memory, between which NCCL sums them; where
  // two ranks share a GPU, which NCCL refuses, or MPI is asked for, the sums go through the host.
  const bool nccl = !shared && config.comm.backend != "mpi";
  const double timeout = watchdog_timeout_of([](const char* name) {
                           return std::getenv(name);
                         }).value_or(config.watchdog.timeout);
  const cuda::NcclOptions nccl_options{timeout > 0 ? timeout + 5 : 0};
  device.make_sync = [gpu, nccl, waiting, nccl_options, host = device.make_sync](
                         Communicator& comm, std::int64_t elements, const GradientSyncOptions& sync,
                         Timeline* timeline) -> std::unique_ptr<GradientSync> {
    std::unique_ptr<cuda::DeviceGradientSync> made;
    if (nccl)
      made = std::make_unique<cuda::NcclSync>(comm, gpu->device.info(), nccl_options, elements, sync,
                                              gpu->compute);
    else
      made = std::make_unique<cuda::StagedSync>(comm, host(comm, elements, sync, timeline), elements, sync,
                                                gpu->compute);
    made->stand_in(waiting);
    return made;
  };
  device.only_enqueues = nccl;
  device.captures_steps = nccl && options.graph;
  device.make_step = [gpu, wait = options.wait] { return make_cuda_step(gpu->compute, wait); };
  return device;
}

}  // namespace

std::vector<DeviceEntry> accelerators() {
  DeviceEntry entry;
  entry.name = "cuda";
  entry.built = true;
  entry.libraries = library_versions;
  entry.probe = cuda::probe_gpus;
  entry.open = open_gpu;
  return {entry};
}

}  // namespace lockstep
