#include "model/cuda/ops/loss/per_target_op.h"
#include "model/ops/loss/huber.h"

namespace lockstep::cuda {

const OwnOp& own_huber() {
  return per_target_op<HuberFunction>();
}

}  // namespace lockstep::cuda
