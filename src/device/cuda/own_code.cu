#include "device/cuda/own_code.h"

namespace lockstep::cuda {
namespace {

/// Made for the same architectures as every kernel of the program.
__global__ void probe(int* out) {
  *out = 1;
}

}  // namespace

cudaError_t own_code_status() noexcept {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, probe);
}

}  // namespace lockstep::cuda
