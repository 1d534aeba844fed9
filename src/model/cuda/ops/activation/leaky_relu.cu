#include "model/cuda/ops/activation/unary_op.h"
#include "model/ops/activation/leaky_relu.h"

namespace lockstep::cuda {

const OwnOp& own_leaky_relu() {
  return unary_op<LeakyReluFunction>();
}

}  // namespace lockstep::cuda
