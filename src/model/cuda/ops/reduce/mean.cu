#include "model/cuda/ops/reduce/axis_sum_op.h"
#include "model/ops/reduce/mean.h"

namespace lockstep::cuda {

const OwnOp& own_mean() {
  return axis_sum_op<MeanAttrs>();
}

}  // namespace lockstep::cuda
