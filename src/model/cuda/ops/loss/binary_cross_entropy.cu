#include "model/cuda/ops/loss/per_target_op.h"
#include "model/ops/loss/binary_cross_entropy.h"

namespace lockstep::cuda {

const OwnOp& own_binary_cross_entropy() {
  return per_target_op<BinaryCrossEntropyFunction>();
}

}  // namespace lockstep::cuda
