#include "model/cuda/ops/shape/moves_op.h"
#include "model/ops/shape/transpose.h"

namespace lockstep::cuda {

const OwnOp& own_transpose() {
  return moves_op<TransposeMoves>();
}

}  // namespace lockstep::cuda
