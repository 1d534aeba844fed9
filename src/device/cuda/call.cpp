#include "device/cuda/call.h"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fmt/format.h>
#include <unistd.h>

#include "core/error.h"
#include "device/cpu_info.h"

namespace lockstep::cuda {

std::string where() {
  int device = -1;
  if (cudaGetDevice(&device) != cudaSuccess) device = -1;
  if (device < 0) return fmt::format("{}, pid {}", host_name(), getpid());
  return fmt::format("GPU {} of {}, pid {}", device, host_name(), getpid());
}

std::string describe_error(const char* call, cudaError_t code) {
  return fmt::format("{}: {} ({}), {}", call, cudaGetErrorString(code), cudaGetErrorName(code), where());
}

void throw_error(const char* call, cudaError_t code) {
  // It is told here, and is not to come back from a later launch when somebody goes on.
  (void)cudaGetLastError();
  throw DeviceError(describe_error(call, code));
}

void check_release(const char* call, cudaError_t code) noexcept {
  // The runtime is shutting down: what was held is gone with it.
  if (code == cudaSuccess || code == cudaErrorCudartUnloading || std::uncaught_exceptions() > 0) return;
  std::fprintf(stderr, "lockstep: error: %s\n", describe_error(call, code).c_str());
  std::fflush(stderr);
  std::_Exit(static_cast<int>(ExitCode::internal));
}

}  // namespace lockstep::cuda
