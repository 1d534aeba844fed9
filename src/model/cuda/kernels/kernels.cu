#include "device/cuda/call.h"
#include "model/cuda/kernels/launch.h"
#include "model/cuda/kernels/work_elementwise.h"
#include "model/cuda/kernels/work_loss.h"
#include "model/cuda/kernels/work_norm.h"
#include "model/cuda/kernels/work_optimizer.h"
#include "model/cuda/kernels/work_pool.h"
#include "model/cuda/kernels/work_reduce.h"
#include "model/cuda/kernels/work_residual.h"

// Every kernel of Lockstep: the functions of model/cuda/work_*.h over a grid. Multiplications and additions
// are not contracted (--fmad=false), so that they give what the same functions give on the host.

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
#define LOCKSTEP_LAUNCH_FOR(T)                      \
  LOCKSTEP_LAUNCH(ToChannelsLast<float, T>)         \
  LOCKSTEP_LAUNCH(MoveToChannelsLast<T>)            \
  LOCKSTEP_LAUNCH(ToPlain<T, float>)                \
  LOCKSTEP_LAUNCH(BiasRelu<T>)                      \
  LOCKSTEP_LAUNCH(Relu<T>)                          \
  LOCKSTEP_LAUNCH(ReluBackward<T>)                  \
  LOCKSTEP_LAUNCH(Gelu<T>)                          \
  LOCKSTEP_LAUNCH(GeluSlope<T>)                     \
  LOCKSTEP_LAUNCH(Add<T>)                           \
  LOCKSTEP_LAUNCH(Copy<T>)                          \
  LOCKSTEP_LAUNCH(Dropout<T>)                       \
  LOCKSTEP_LAUNCH(MaxPool<T, std::uint8_t>)         \
  LOCKSTEP_LAUNCH(MaxPool<T, std::int32_t>)         \
  LOCKSTEP_LAUNCH(MaxPoolBackward<T, std::uint8_t>) \
  LOCKSTEP_LAUNCH(MaxPoolBackward<T, std::int32_t>) \
  LOCKSTEP_LAUNCH(AvgPool<T>)                       \
  LOCKSTEP_LAUNCH(AvgPoolBackward<T>)               \
  LOCKSTEP_LAUNCH(NormChunk<T>)                     \
  LOCKSTEP_LAUNCH(NormApply<T>)                     \
  LOCKSTEP_LAUNCH(GradientChunk<T>)                 \
  LOCKSTEP_LAUNCH(ResidualChunk<T>)                 \
  LOCKSTEP_LAUNCH(NormBackward<T>)                  \
  LOCKSTEP_LAUNCH(Softmax<T>)                       \
  LOCKSTEP_LAUNCH(SoftmaxBackward<T>)
#define LOCKSTEP_LAUNCH_FOR_16_BITS(T)  \
  LOCKSTEP_LAUNCH(ToChannelsLast<T, T>) \
  LOCKSTEP_LAUNCH(ToPlain<T, T>)        \
  LOCKSTEP_LAUNCH(Convert<T>)           \
  LOCKSTEP_LAUNCH(Widen<T>)

LOCKSTEP_LAUNCH_FOR(float)
LOCKSTEP_LAUNCH_FOR(Bf16)
LOCKSTEP_LAUNCH_FOR(Fp16)
LOCKSTEP_LAUNCH_FOR_16_BITS(Bf16)
LOCKSTEP_LAUNCH_FOR_16_BITS(Fp16)
LOCKSTEP_LAUNCH(Zero)
LOCKSTEP_LAUNCH(Unscale)
LOCKSTEP_LAUNCH(NormGroup)
LOCKSTEP_LAUNCH(NormFactors)
LOCKSTEP_LAUNCH(NormFinish)
LOCKSTEP_LAUNCH(NormRunning)
LOCKSTEP_LAUNCH(SumGroup)
LOCKSTEP_LAUNCH(SumFinish)
LOCKSTEP_LAUNCH(LargestOfPart)
LOCKSTEP_LAUNCH(SumExpOfPart)
LOCKSTEP_LAUNCH(CrossEntropyOfRow)
LOCKSTEP_LAUNCH(CrossEntropyGradient)
LOCKSTEP_LAUNCH(SquaredErrorOfRow)
LOCKSTEP_LAUNCH(SquaredErrorGradient)
LOCKSTEP_LAUNCH(SumOfRows)
LOCKSTEP_LAUNCH(WatchLoss)
LOCKSTEP_LAUNCH(SpreadNonfinite)
LOCKSTEP_LAUNCH(OptimizerUpdate)
LOCKSTEP_LAUNCH(SquaresOfBlock)
LOCKSTEP_LAUNCH(SumOfBlock)
LOCKSTEP_LAUNCH(TreeOfGroup)
LOCKSTEP_LAUNCH(DecideStep)
LOCKSTEP_LAUNCH(SetLossScale)
LOCKSTEP_LAUNCH(StoreScalars)

}  // namespace lockstep::cuda
