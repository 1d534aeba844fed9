#include "model/cuda/kernels/launch_work.h"
#include "optim/cuda/work_optimizer.h"
#include "optim/rules/table.h"

// The kernels of an optimizer step: the functions of work_optimizer.h over a grid, with a line
// for every rule of the table.

namespace lockstep::cuda {

LOCKSTEP_LAUNCH(OptimizerUpdate<rules::Sgd>)
LOCKSTEP_LAUNCH(OptimizerUpdate<rules::SgdMomentum>)
LOCKSTEP_LAUNCH(OptimizerUpdate<rules::SgdNesterov>)
LOCKSTEP_LAUNCH(OptimizerUpdate<rules::Adam>)
LOCKSTEP_LAUNCH(OptimizerUpdate<rules::AdamW>)
LOCKSTEP_LAUNCH(OptimizerUpdate<rules::RmsProp>)
LOCKSTEP_LAUNCH(OptimizerUpdate<rules::RmsPropMomentum>)
LOCKSTEP_LAUNCH(OptimizerUpdate<rules::Adagrad>)
LOCKSTEP_LAUNCH(OptimizerUpdate<rules::Lion>)
LOCKSTEP_LAUNCH(OptimizerUpdate<rules::Lars>)
LOCKSTEP_LAUNCH(OptimizerUpdate<rules::Lamb>)
LOCKSTEP_LAUNCH(MeasurePiece<rules::Lars>)
LOCKSTEP_LAUNCH(MeasurePiece<rules::Lamb>)
LOCKSTEP_LAUNCH(SquaresOfBlock)
LOCKSTEP_LAUNCH(SumOfBlock)
LOCKSTEP_LAUNCH(TreeOfGroup)
LOCKSTEP_LAUNCH(DecideStep)
LOCKSTEP_LAUNCH(SetLossScale)
LOCKSTEP_LAUNCH(StoreScalars)

}  // namespace lockstep::cuda
