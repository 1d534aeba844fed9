#include "model/ops/loss/binary_cross_entropy.h"

#include "model/cpu/kernels/loss/per_target_kernel.h"

namespace lockstep::cpu {

std::unique_ptr<Kernel> make_binary_cross_entropy(const KernelSpec& spec) {
  return std::make_unique<PerTargetKernel<BinaryCrossEntropyFunction>>("binary_cross_entropy", spec);
}

}  // namespace lockstep::cpu
