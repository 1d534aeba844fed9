#include "model/ops/reduce/mean.h"

#include "model/ops/reduce/axis_sum.h"

namespace lockstep::ops {

const OpEntry& mean_op() {
  static const OpEntry entry = axis_sum_entry<MeanAttrs>("mean", "mean:0");
  return entry;
}

}  // namespace lockstep::ops
