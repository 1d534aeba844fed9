#include "model/ops/reduce/sum.h"

#include "model/cpu/kernels/reduce/axis_sum_kernel.h"

namespace lockstep::cpu {

std::unique_ptr<Kernel> make_sum(const KernelSpec& spec) {
  return std::make_unique<AxisSumKernel>("sum", spec,
                                         ops::axis_sum_of<SumAttrs>(spec.op(), *spec.graph, false));
}

}  // namespace lockstep::cpu
