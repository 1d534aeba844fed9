#include "model/cuda/ops/activation/unary_op.h"
#include "model/ops/activation/silu.h"

namespace lockstep::cuda {

const OwnOp& own_silu() {
  return unary_op<SiluFunction>();
}

}  // namespace lockstep::cuda
