#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/graph/op_entry.h"

namespace lockstep {

/// The entry of the op that `attrs` holds.
inline const OpEntry& op_entry(const OpAttrs& attrs) {
  return attrs.entry();
}
/// The entries of all built-in ops: one for every source file in a folder of model/ops/, which defines
/// `const OpEntry& ops::<file>_op()`. In the order of their names.
std::span<const OpEntry* const> op_table();
/// Whether the data of this graph have labels of classes; else they have targets.
inline bool has_labels(const Graph& graph) {
  return graph.loss.attrs.entry().loss->answers == LossRule::Answers::labels;
}
/// Whether the weight of a sample in the loss depends on its labels; else it is 1.
bool weighs_by_label(const Graph& graph);
/// The loss of this name, or null.
const OpEntry* find_loss(std::string_view name);
/// The names of all losses.
std::vector<std::string> loss_names();

}  // namespace lockstep
