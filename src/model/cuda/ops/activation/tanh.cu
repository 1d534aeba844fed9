#include "model/cuda/ops/activation/unary_op.h"
#include "model/ops/activation/tanh.h"

namespace lockstep::cuda {

const OwnOp& own_tanh() {
  return unary_op<TanhFunction>();
}

}  // namespace lockstep::cuda
