#include "model/ops/loss/huber.h"

#include "model/ops/loss/per_target.h"

namespace lockstep::ops {

const OpEntry& huber_op() {
  static const OpEntry entry = [] {
    OpEntry e = per_target_entry<HuberAttrs, HuberFunction>("huber", {"delta"});
    e.attrs_with = [](const LossOptions& options) { return OpAttrs(HuberAttrs{options.delta}); };
    return e;
  }();
  return entry;
}

}  // namespace lockstep::ops
