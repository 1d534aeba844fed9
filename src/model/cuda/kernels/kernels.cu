#include "model/cuda/kernels/launch.h"
#include "model/cuda/kernels/launch_work.h"
#include "model/cuda/kernels/work_elementwise.h"
#include "model/cuda/kernels/work_loss.h"
#include "model/cuda/kernels/work_norm.h"
#include "model/cuda/kernels/work_pool.h"
#include "model/cuda/kernels/work_reduce.h"
#include "model/cuda/kernels/work_residual.h"

// Every kernel of a plan: the functions of model/cuda/kernels/work_*.h over a grid.

namespace lockstep::cuda {

#define LOCKSTEP_LAUNCH_FOR(T)                      \
  LOCKSTEP_LAUNCH(ToChannelsLast<float, T>)         \
  LOCKSTEP_LAUNCH(TakeImages<T>)                    \
  LOCKSTEP_LAUNCH(ToPlain<T, float>)                \
  LOCKSTEP_LAUNCH(BiasRelu<T>)                      \
  LOCKSTEP_LAUNCH(Relu<T>)                          \
  LOCKSTEP_LAUNCH(ReluBackward<T>)                  \
  LOCKSTEP_LAUNCH(Gelu<T>)                          \
  LOCKSTEP_LAUNCH(GeluSlope<T>)                     \
  LOCKSTEP_LAUNCH(Add<T>)                           \
  LOCKSTEP_LAUNCH(Copy<T>)                          \
  LOCKSTEP_LAUNCH(ClearPadding<T>)                  \
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
LOCKSTEP_LAUNCH(CopyWholeNumbers)
LOCKSTEP_LAUNCH(Unscale)
LOCKSTEP_LAUNCH(NormGroup)
LOCKSTEP_LAUNCH(NormFactors)
LOCKSTEP_LAUNCH(NormFinish)
LOCKSTEP_LAUNCH(NormRunning)
LOCKSTEP_LAUNCH(SumGroup)
LOCKSTEP_LAUNCH(SumFinish)
LOCKSTEP_LAUNCH(SumOfRows)
LOCKSTEP_LAUNCH(WatchLoss)
LOCKSTEP_LAUNCH(SpreadNonfinite)

}  // namespace lockstep::cuda
