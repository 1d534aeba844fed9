#include "model/ops/shape/transpose.h"

#include "model/cpu/kernels/shape/moves_kernel.h"

namespace lockstep::cpu {

std::unique_ptr<Kernel> make_transpose(const KernelSpec& spec) {
  return make_moves<TransposeMoves>("transpose", spec);
}

}  // namespace lockstep::cpu
