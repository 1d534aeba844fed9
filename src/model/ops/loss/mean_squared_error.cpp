#include "model/ops/loss/mean_squared_error.h"

#include "model/ops/loss/per_target.h"

namespace lockstep::ops {

const OpEntry& mean_squared_error_op() {
  static const OpEntry entry = per_target_entry<MeanSquaredErrorAttrs, MeanSquaredErrorFunction>("mse");
  return entry;
}

}  // namespace lockstep::ops
