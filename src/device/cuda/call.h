#pragma once

#include <cuda_runtime_api.h>
#include <string>

namespace lockstep::cuda {

/// "cudaMalloc(&p, n): out of memory (cudaErrorMemoryAllocation), GPU 1 of node3, pid 812".
std::string describe_error(const char* call, cudaError_t code);

/// Throws DeviceError with that text. The rank is added by whoever reports it: a rank that fails alone is
/// named in the log line.
[[noreturn]] void throw_error(const char* call, cudaError_t code);

/// For destructors: a failure while an exception unwinds is its echo and is passed over; any other one is
/// logged and ends the process.
void check_release(const char* call, cudaError_t code) noexcept;

/// "GPU 1 of node3, pid 812": this process and its current device; for messages of other libraries.
std::string where();

}  // namespace lockstep::cuda

/// Calls a function of the CUDA runtime, or cudaGetLastError() after a kernel launch; throws DeviceError
/// unless it returns cudaSuccess.
#define LOCKSTEP_CUDA_CALL(call)                                                           \
  do {                                                                                     \
    const cudaError_t lockstep_code = (call);                                              \
    if (lockstep_code != cudaSuccess) ::lockstep::cuda::throw_error(#call, lockstep_code); \
  } while (false)

/// The same in a destructor or another noexcept place.
#define LOCKSTEP_CUDA_RELEASE(call) ::lockstep::cuda::check_release(#call, (call))
