#pragma once

namespace lockstep {

/// What a loss gives for one row, and summed for a slice.
struct LossSums {
  double loss = 0;     ///< not divided
  double correct = 0;  ///< places where the largest output is the label; of losses with labels alone
  double weight = 0;   ///< what the loss is divided by, over the whole batch
  double counted = 0;  ///< places that may be correct
};

}  // namespace lockstep
