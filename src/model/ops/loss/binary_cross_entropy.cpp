#include "model/ops/loss/binary_cross_entropy.h"

#include "model/ops/loss/per_target.h"

namespace lockstep::ops {

const OpEntry& binary_cross_entropy_op() {
  static const OpEntry entry = per_target_entry<BinaryCrossEntropyAttrs, BinaryCrossEntropyFunction>("bce");
  return entry;
}

}  // namespace lockstep::ops
