#include "model/cpu/kernels/kernel_table.h"

#include <map>
#include <string>

#include "core/error.h"
#include "model/graph/op_table.h"

namespace lockstep {

namespace ops {
#define LOCKSTEP_DECLARE(op) const OpEntry& op##_op();
LOCKSTEP_ALL_OPS(LOCKSTEP_DECLARE)
#undef LOCKSTEP_DECLARE
}  // namespace ops

namespace cpu {
namespace {

using KernelFactory = std::unique_ptr<Kernel> (*)(const KernelSpec&);
using Table = std::map<const OpEntry*, KernelFactory>;

const Table& table() {
#define LOCKSTEP_KERNEL(op) {&ops::op##_op(), make_##op},
  static const Table kernels = {LOCKSTEP_ALL_OPS(LOCKSTEP_KERNEL)};
#undef LOCKSTEP_KERNEL
  return kernels;
}

}  // namespace

std::unique_ptr<Kernel> make_kernel(const KernelSpec& spec) {
  const OpEntry& op = spec.op().attrs.entry();
  const auto found = table().find(&op);
  require(found != table().end(), "this op has no kernel for the CPU");
  return found->second(spec);
}

}  // namespace cpu
}  // namespace lockstep
