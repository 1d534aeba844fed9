#include <cublasLt.h>
#include <cudnn.h>
#include <fmt/format.h>

#include "comm/cuda/nccl_communicator.h"
#include "device/cuda/device.h"
#include "trainer/device_table.h"

namespace lockstep {
namespace {

std::string library_versions() {
  const std::size_t dnn = cudnnGetVersion();  // since 9: major * 10000 + minor * 100 + patch
  const std::size_t blas = cublasLtGetVersion();
  return fmt::format("{}, cuDNN {}.{}.{}, cuBLASLt {}.{}.{}, {}", cuda::runtime_version(), dnn / 10000,
                     dnn / 100 % 100, dnn % 100, blas / 10000, blas / 100 % 100, blas % 100,
                     cuda::NcclCommunicator::version());
}

}  // namespace

std::vector<DeviceEntry> accelerators() {
  DeviceEntry entry;
  entry.name = "cuda";
  entry.built = true;
  entry.libraries = library_versions();
  entry.probe = cuda::probe_gpus;
  return {entry};
}

}  // namespace lockstep
