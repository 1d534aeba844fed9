#include "model/ops/shape/concat.h"

#include "model/cpu/kernels/shape/moves_kernel.h"

namespace lockstep::cpu {

std::unique_ptr<Kernel> make_concat(const KernelSpec& spec) {
  return make_moves<ConcatMoves>("concat", spec);
}

}  // namespace lockstep::cpu
