#include "model/ops/shape/slice.h"

#include "model/cpu/kernels/shape/moves_kernel.h"

namespace lockstep::cpu {

std::unique_ptr<Kernel> make_slice(const KernelSpec& spec) {
  return make_moves<SliceMoves>("slice", spec);
}

}  // namespace lockstep::cpu
