#include "model/ops/reduce/mean.h"

#include "model/cpu/kernels/reduce/axis_sum_kernel.h"

namespace lockstep::cpu {

std::unique_ptr<Kernel> make_mean(const KernelSpec& spec) {
  return std::make_unique<AxisSumKernel>("mean", spec,
                                         ops::axis_sum_of<MeanAttrs>(spec.op(), *spec.graph, false));
}

}  // namespace lockstep::cpu
