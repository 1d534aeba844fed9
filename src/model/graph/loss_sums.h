#pragma once

namespace lockstep {

/// What a loss gives for one row, and summed for a slice.
struct LossSums {
  double loss = 0;     ///< not divided
  double correct = 0;  ///< 1 where the largest output is the label; of losses with labels alone
};

}  // namespace lockstep
