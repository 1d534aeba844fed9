#include "model/graph/graph.h"

namespace lockstep {

std::int64_t Graph::parameter_count() const {
  std::int64_t count = 0;
  for (const Parameter& p : parameters) count += p.shape.elements();
  return count;
}

bool Graph::has_batch_norm() const {
  for (const OpNode& node : nodes) {
    if (std::holds_alternative<BatchNormAttrs>(node.attrs)) return true;
  }
  return false;
}

}  // namespace lockstep
