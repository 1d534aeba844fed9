#include "model/cuda/ops/activation/unary_op.h"
#include "model/ops/activation/sigmoid.h"

namespace lockstep::cuda {

const OwnOp& own_sigmoid() {
  return unary_op<SigmoidFunction>();
}

}  // namespace lockstep::cuda
