#pragma once

#include "device/cuda/call.h"
#include "model/cuda/kernels/launch.h"
#include "model/cuda/kernels/packs.h"

// For files of kernels alone, which nvcc compiles: work over a grid. Multiplications and additions are not
// contracted (--fmad=false), so that they give what the same functions give on the host.

namespace lockstep::cuda {
namespace {

constexpr int threads = pack_threads;
constexpr std::int64_t most_blocks = 1 << 20;
/// Eight blocks fit on a multiprocessor. Twice as many, since they do not end at once.
constexpr int pack_blocks_per_multiprocessor = 16;

/// Not unrolled: that needs the number of turns, a division, where nearly every thread has one.
template <class Work>
__global__ void __launch_bounds__(threads)
    for_each_item(std::int64_t begin, std::int64_t end, const Work work) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * threads;
#pragma unroll 1
  for (std::int64_t i = begin + static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < end;
       i += step)
    work(i);
}

template <class Work>
__global__ void __launch_bounds__(threads)
    for_each_pack(std::uint32_t packs, std::uint32_t channel_packs, const Work work) {
  run_packs(blockIdx.x * threads + threadIdx.x, gridDim.x * threads, packs, channel_packs, work);
}

}  // namespace

template <class Work>
void launch(std::int64_t n, const Work& work, int multiprocessors, cudaStream_t stream) {
  const PackGrid grid = pack_grid(n, work, multiprocessors * pack_blocks_per_multiprocessor);
  if constexpr (InPacks<Work>) {
    if (grid.packs > 0) {
      for_each_pack<<<grid.blocks, threads, 0, stream>>>(grid.packs, grid.channel_packs, work);
      LOCKSTEP_CUDA_CALL(cudaGetLastError());
    }
  }
  const std::int64_t begin = static_cast<std::int64_t>(grid.packs) * pack_elements;
  if (n <= begin) return;
  const std::int64_t wanted = (n - begin + threads - 1) / threads;
  const auto blocks = static_cast<unsigned>(wanted < most_blocks ? wanted : most_blocks);
  for_each_item<<<blocks, threads, 0, stream>>>(begin, n, work);
  LOCKSTEP_CUDA_CALL(cudaGetLastError());
}

#define LOCKSTEP_LAUNCH(...) \
  template void launch<__VA_ARGS__>(std::int64_t, const __VA_ARGS__&, int, cudaStream_t);

}  // namespace lockstep::cuda
