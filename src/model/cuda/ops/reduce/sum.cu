#include "model/cuda/ops/reduce/axis_sum_op.h"
#include "model/ops/reduce/sum.h"

namespace lockstep::cuda {

const OwnOp& own_sum() {
  return axis_sum_op<SumAttrs>();
}

}  // namespace lockstep::cuda
