#include "model/graph/graph.h"

#include "model/graph/op_entry.h"

namespace lockstep {

std::int64_t Graph::parameter_count() const {
  std::int64_t count = 0;
  for (const Parameter& p : parameters) count += p.shape.elements();
  return count;
}

bool Graph::mixes_rows() const {
  for (const OpNode& node : nodes) {
    if (node.attrs.entry().traits.mixes_rows) return true;
  }
  return false;
}

}  // namespace lockstep
