#include "model/ops/loss/mean_squared_error.h"

#include "model/cpu/kernels/loss/per_target_kernel.h"

namespace lockstep::cpu {

std::unique_ptr<Kernel> make_mean_squared_error(const KernelSpec& spec) {
  return std::make_unique<PerTargetKernel<MeanSquaredErrorFunction>>("mean_squared_error", spec);
}

}  // namespace lockstep::cpu
