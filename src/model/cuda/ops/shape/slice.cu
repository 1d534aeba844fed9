#include "model/cuda/ops/shape/moves_op.h"
#include "model/ops/shape/slice.h"

namespace lockstep::cuda {

const OwnOp& own_slice() {
  return moves_op<SliceMoves>();
}

}  // namespace lockstep::cuda
