#include "model/ops/loss/huber.h"

#include "model/cpu/kernels/loss/per_target_kernel.h"

namespace lockstep::cpu {

std::unique_ptr<Kernel> make_huber(const KernelSpec& spec) {
  return std::make_unique<PerTargetKernel<HuberFunction>>("huber", spec);
}

}  // namespace lockstep::cpu
