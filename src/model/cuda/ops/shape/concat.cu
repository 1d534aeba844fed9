#include "model/cuda/ops/shape/moves_op.h"
#include "model/ops/shape/concat.h"

namespace lockstep::cuda {

const OwnOp& own_concat() {
  return moves_op<ConcatMoves>();
}

}  // namespace lockstep::cuda
