#include "model/cuda/ops/loss/per_target_op.h"
#include "model/ops/loss/mean_absolute_error.h"

namespace lockstep::cuda {

const OwnOp& own_mean_absolute_error() {
  return per_target_op<MeanAbsoluteErrorFunction>();
}

}  // namespace lockstep::cuda
