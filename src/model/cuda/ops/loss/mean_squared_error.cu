#include "model/cuda/ops/loss/per_target_op.h"
#include "model/ops/loss/mean_squared_error.h"

namespace lockstep::cuda {

const OwnOp& own_mean_squared_error() {
  return per_target_op<MeanSquaredErrorFunction>();
}

}  // namespace lockstep::cuda
