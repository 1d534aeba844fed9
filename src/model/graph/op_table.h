#pragma once

#include <span>

#include "model/graph/op_entry.h"

namespace lockstep {

/// The entry of the op that `attrs` holds.
inline const OpEntry& op_entry(const OpAttrs& attrs) {
  return attrs.entry();
}
/// The entries of all built-in ops: one for every source file in a folder of model/ops/, which defines
/// `const OpEntry& ops::<file>_op()`. In the order of their names.
std::span<const OpEntry* const> op_table();

}  // namespace lockstep
