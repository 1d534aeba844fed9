#include "model/ops/loss/mean_absolute_error.h"

#include "model/ops/loss/per_target.h"

namespace lockstep::ops {

const OpEntry& mean_absolute_error_op() {
  static const OpEntry entry = per_target_entry<MeanAbsoluteErrorAttrs, MeanAbsoluteErrorFunction>("l1");
  return entry;
}

}  // namespace lockstep::ops
