#include "model/ops/reduce/sum.h"

#include "model/ops/reduce/axis_sum.h"

namespace lockstep::ops {

const OpEntry& sum_op() {
  static const OpEntry entry = axis_sum_entry<SumAttrs>("sum", "sum:0");
  return entry;
}

}  // namespace lockstep::ops
