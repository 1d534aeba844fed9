#include "model/graph/op_table.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "model/all_ops.h"

namespace lockstep {

namespace ops {
#define LOCKSTEP_DECLARE(op) const OpEntry& op##_op();
LOCKSTEP_ALL_OPS(LOCKSTEP_DECLARE)
#undef LOCKSTEP_DECLARE
}  // namespace ops

std::span<const OpEntry* const> op_table() {
  static const std::vector<const OpEntry*> table = [] {
#define LOCKSTEP_ENTRY(op) &ops::op##_op(),
    std::vector<const OpEntry*> entries = {LOCKSTEP_ALL_OPS(LOCKSTEP_ENTRY)};
#undef LOCKSTEP_ENTRY
    std::sort(entries.begin(), entries.end(), [](const OpEntry* a, const OpEntry* b) {
      return std::string_view(a->name) < std::string_view(b->name);
    });
    return entries;
  }();
  return table;
}

bool weighs_by_label(const Graph& graph) {
  const OpAttrs& loss = graph.loss.attrs;
  const LossRule& rule = *loss.entry().loss;
  return rule.weight != nullptr && rule.weight_varies(loss, graph.shape_of(graph.output));
}

const OpEntry* find_loss(std::string_view name) {
  for (const OpEntry* entry : op_table())
    if (entry->loss != nullptr && entry->name == name) return entry;
  return nullptr;
}

std::vector<std::string> loss_names() {
  std::vector<std::string> names;
  for (const OpEntry* entry : op_table())
    if (entry->loss != nullptr) names.emplace_back(entry->name);
  return names;
}

}  // namespace lockstep
