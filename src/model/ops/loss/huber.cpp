#include "model/ops/loss/huber.h"

#include "model/ops/loss/per_target.h"

namespace lockstep::ops {

const OpEntry& huber_op() {
  static const OpEntry entry = per_target_entry<HuberAttrs, HuberFunction>("huber");
  return entry;
}

}  // namespace lockstep::ops
