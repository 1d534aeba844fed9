#include "device/cuda/memory.h"

#include <cstring>
#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"

namespace lockstep::cuda {

namespace detail {
void free_device(void* memory) noexcept {
  LOCKSTEP_CUDA_RELEASE(cudaFree(memory));
}
void free_pinned(void* memory) noexcept {
  LOCKSTEP_CUDA_RELEASE(cudaFreeHost(memory));
}
}  // namespace detail

namespace {

[[noreturn]] void refuse(const char* what, const char* call, std::size_t bytes, cudaError_t code) {
  (void)cudaGetLastError();  // as throw_error()
  throw DeviceError(
      fmt::format("{} of {} could not be had: {}", human_bytes(bytes), what, describe_error(call, code)));
}

}  // namespace

DeviceBuffer::DeviceBuffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* memory = nullptr;
  if (const cudaError_t code = cudaMalloc(&memory, bytes); code != cudaSuccess)
    refuse("GPU memory", "cudaMalloc", bytes, code);
  memory_ = Unique<void*, detail::free_device>(memory);
  LOCKSTEP_CUDA_CALL(cudaMemset(memory, 0, bytes));
  // The fill runs on the default stream, for which other streams do not wait.
  LOCKSTEP_CUDA_CALL(cudaStreamSynchronize(nullptr));
}

PinnedBuffer::PinnedBuffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* memory = nullptr;
  if (const cudaError_t code = cudaHostAlloc(&memory, bytes, cudaHostAllocMapped | cudaHostAllocPortable);
      code != cudaSuccess)
    refuse("pinned host memory", "cudaHostAlloc", bytes, code);
  memory_ = Unique<void*, detail::free_pinned>(memory);
  LOCKSTEP_CUDA_CALL(cudaHostGetDevicePointer(&mapped_, memory, 0));
  std::memset(memory, 0, bytes);
}

void copy_to_device(void* device, const void* host, std::size_t bytes, const Stream& stream) {
  if (bytes > 0)
    LOCKSTEP_CUDA_CALL(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream.handle()));
}

void copy_to_host(void* host, const void* device, std::size_t bytes, const Stream& stream) {
  if (bytes > 0)
    LOCKSTEP_CUDA_CALL(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream.handle()));
}

void copy_on_device(void* to, const void* from, std::size_t bytes, const Stream& stream) {
  if (bytes > 0)
    LOCKSTEP_CUDA_CALL(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream.handle()));
}

}  // namespace lockstep::cuda
