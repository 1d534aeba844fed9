#include <map>

#include "model/all_own_ops.h"
#include "model/cuda/plan/own_op.h"

namespace lockstep {

namespace ops {
#define LOCKSTEP_DECLARE(op) const OpEntry& op##_op();
LOCKSTEP_ALL_OWN_OPS(LOCKSTEP_DECLARE)
#undef LOCKSTEP_DECLARE
}  // namespace ops

namespace cuda {

#define LOCKSTEP_DECLARE(op) const OwnOp& own_##op();
LOCKSTEP_ALL_OWN_OPS(LOCKSTEP_DECLARE)
#undef LOCKSTEP_DECLARE

const OwnOp* own_op(const OpEntry& op) {
#define LOCKSTEP_OWN(op) {&ops::op##_op(), &own_##op()},
  static const std::map<const OpEntry*, const OwnOp*> table = {LOCKSTEP_ALL_OWN_OPS(LOCKSTEP_OWN)};
#undef LOCKSTEP_OWN
  const auto found = table.find(&op);
  return found == table.end() ? nullptr : found->second;
}

Lines lines_of(const Shape& shape, std::int64_t rows) {
  const std::int64_t total = rows * shape.elements();
  if (shape.rank() == 3) {
    const std::int64_t channels = shape[0], width = shape[2];
    return {{width, channels, channels, channels * width}, total / width};
  }
  const std::int64_t last = shape.rank() == 0 ? 1 : shape[shape.rank() - 1];
  return {{last, 1, 1, last}, total / last};
}

}  // namespace cuda
}  // namespace lockstep
