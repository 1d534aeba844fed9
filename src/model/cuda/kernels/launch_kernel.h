#pragma once

#include <cstdint>
#include <cuda_runtime_api.h>

#include "device/cuda/call.h"
#include "model/cuda/kernels/packs.h"

// For nvcc alone: the functions of model/cuda/kernels/work_*.h and of model/cuda/ops/ over a grid.
// Multiplications and additions are not contracted (--fmad=false), so that they give what the same functions
// give on the host.

namespace lockstep::cuda {

inline constexpr int kernel_threads = pack_threads;
inline constexpr std::int64_t most_blocks = 1 << 20;
/// Eight blocks fit on a multiprocessor. Twice as many, since they do not end at once.
inline constexpr int pack_blocks_per_multiprocessor = 16;

/// Not unrolled: that needs the number of turns, a division, where nearly every thread has one.
template <class Work>
__global__ void __launch_bounds__(kernel_threads)
    for_each_item(std::int64_t begin, std::int64_t end, const Work work) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kernel_threads;
#pragma unroll 1
  for (std::int64_t i = begin + static_cast<std::int64_t>(blockIdx.x) * kernel_threads + threadIdx.x; i < end;
       i += step)
    work(i);
}

template <class Work>
__global__ void __launch_bounds__(kernel_threads)
    for_each_pack(std::uint32_t packs, std::uint32_t channel_packs, const Work work) {
  run_packs(blockIdx.x * kernel_threads + threadIdx.x, gridDim.x * kernel_threads, packs, channel_packs,
            work);
}

/// As launch(), for the sources that nvcc compiles.
template <class Work>
void launch_kernel(std::int64_t n, const Work& work, int multiprocessors, cudaStream_t stream) {
  const PackGrid grid = pack_grid(n, work, multiprocessors * pack_blocks_per_multiprocessor);
  if constexpr (InPacks<Work>) {
    if (grid.packs > 0) {
      for_each_pack<<<grid.blocks, kernel_threads, 0, stream>>>(grid.packs, grid.channel_packs, work);
      LOCKSTEP_CUDA_CALL(cudaGetLastError());
    }
  }
  const std::int64_t begin = static_cast<std::int64_t>(grid.packs) * pack_elements;
  if (n <= begin) return;
  const std::int64_t wanted = (n - begin + kernel_threads - 1) / kernel_threads;
  const auto blocks = static_cast<unsigned>(wanted < most_blocks ? wanted : most_blocks);
  for_each_item<<<blocks, kernel_threads, 0, stream>>>(begin, n, work);
  LOCKSTEP_CUDA_CALL(cudaGetLastError());
}

}  // namespace lockstep::cuda
