#pragma once

#include <memory>

#include "model/all_ops.h"
#include "model/cpu/kernels/kernel.h"

namespace lockstep::cpu {

// One factory for every built-in op, `make_<file>`, in a source file of its own. The layouts in the spec were
// chosen by the plan.
#define LOCKSTEP_DECLARE(op) std::unique_ptr<Kernel> make_##op(const KernelSpec& spec);
LOCKSTEP_ALL_OPS(LOCKSTEP_DECLARE)
#undef LOCKSTEP_DECLARE

/// The kernel of the op that the spec names. Throws InternalError for an op that has none.
std::unique_ptr<Kernel> make_kernel(const KernelSpec& spec);

}  // namespace lockstep::cpu
