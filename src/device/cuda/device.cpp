#include "device/cuda/device.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>

#include "core/error.h"
#include "device/cuda/own_code.h"

namespace lockstep::cuda {
namespace {

/// "GPU-xxxxxxxx-xxxx-…", as nvidia-smi prints it.
std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text = "GPU";
  for (int i = 0; i < 16; ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned char>(uuid.bytes[i]));
  }
  return text;
}

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

/// Throws nothing: fills `info`, or returns why not.
cudaError_t describe(int ordinal, GpuInfo& info) {
  cudaDeviceProp properties{};
  if (const cudaError_t code = cudaGetDeviceProperties(&properties, ordinal); code != cudaSuccess)
    return code;
  std::array<char, 64> bus{};
  if (const cudaError_t code = cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), ordinal);
      code != cudaSuccess)
    return code;
  info.ordinal = ordinal;
  info.name = properties.name;
  info.uuid = uuid_text(properties.uuid);
  info.pci_bus_id = bus.data();
  info.capability_major = properties.major;
  info.capability_minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.memory_bytes = properties.totalGlobalMem;
  return cudaSuccess;
}

/// Takes out GPUs for which there is no code in this program: it is made for some architectures, and runs on
/// those and on later ones.
void leave_out_older(GpuProbe& probe) {
  const auto is_older = [](const GpuInfo& gpu) {
    return gpu.capability_major * 10 + gpu.capability_minor < LOCKSTEP_LOWEST_CUDA_ARCHITECTURE;
  };
  const auto older = std::find_if(probe.gpus.begin(), probe.gpus.end(), is_older);
  if (older == probe.gpus.end()) return;
  const std::string text = fmt::format(
      "{} has compute capability {}.{}, and this Lockstep was built for {}.{} and later "
      "(CMAKE_CUDA_ARCHITECTURES)",
      older->name, older->capability_major, older->capability_minor, LOCKSTEP_LOWEST_CUDA_ARCHITECTURE / 10,
      LOCKSTEP_LOWEST_CUDA_ARCHITECTURE % 10);
  std::erase_if(probe.gpus, is_older);
  if (probe.gpus.empty()) probe.problem = text;
}

}  // namespace

GpuProbe probe_gpus() {
  GpuProbe probe;
  int count = 0;
  cudaError_t code = cudaGetDeviceCount(&count);
  for (int ordinal = 0; code == cudaSuccess && ordinal < count; ++ordinal) {
    GpuInfo info;
    code = describe(ordinal, info);
    if (code == cudaSuccess) probe.gpus.push_back(std::move(info));
  }
  if (code == cudaSuccess) {
    if (count == 0) probe.problem = "the driver shows no GPU to this process";
    leave_out_older(probe);
    return probe;
  }
  probe.gpus.clear();
  // The error stays with the thread otherwise and would come back from the next launch.
  (void)cudaGetLastError();
  int driver = 0;
  const bool has_driver = cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0;
  if (code == cudaErrorInsufficientDriver && !has_driver) {
    probe.problem = "there is no NVIDIA driver on this machine (libcuda.so.1 does not load)";
  } else if (code == cudaErrorInsufficientDriver) {
    probe.problem =
        fmt::format("the NVIDIA driver is too old: it speaks CUDA {}, this Lockstep was built with {}",
                    version_text(driver), version_text(CUDART_VERSION));
  } else if (code == cudaErrorNoDevice) {
    probe.problem = "the driver shows no GPU to this process (see CUDA_VISIBLE_DEVICES)";
  } else {
    probe.problem =
        fmt::format("the NVIDIA driver refuses: {} ({})", cudaGetErrorString(code), cudaGetErrorName(code));
  }
  return probe;
}

std::string runtime_version() {
  int runtime = 0;
  int driver = 0;
  if (cudaRuntimeGetVersion(&runtime) != cudaSuccess) runtime = CUDART_VERSION;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  return fmt::format("CUDA runtime {}, {}", version_text(runtime),
                     driver > 0 ? "driver for CUDA " + version_text(driver) : std::string("no driver"));
}

Device::Device(const GpuInfo& info) : info_(info) {
  make_current();
  LOCKSTEP_CUDA_CALL(cudaFree(nullptr));  // makes the context
  const cudaError_t code = own_code_status();
  if (code == cudaSuccess) return;
  (void)cudaGetLastError();  // as throw_error()
  if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction ||
      code == cudaErrorUnsupportedPtxVersion)
    throw ConfigError(no_code_text(info_, LOCKSTEP_CUDA_ARCHITECTURES));
  throw_error("cudaFuncGetAttributes", code);
}

void Device::make_current() const {
  LOCKSTEP_CUDA_CALL(cudaSetDevice(info_.ordinal));
}

Device::Memory Device::memory() const {
  Memory memory;
  LOCKSTEP_CUDA_CALL(cudaMemGetInfo(&memory.free, &memory.total));
  return memory;
}

}  // namespace lockstep::cuda
