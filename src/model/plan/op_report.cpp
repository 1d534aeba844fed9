#include "model/plan/op_report.h"

#include "core/index.h"
#include "model/graph/op_table.h"

namespace lockstep {

OpReport report_of(const Graph& graph, std::span<const int> nodes, ValueId output) {
  OpReport row;
  for (const int n : nodes) {
    const OpNode& node = graph.nodes[at(n)];
    const OpEntry& entry = op_entry(node.attrs);
    if (!row.op.empty()) row.op += "+";
    row.op += entry.name;
    std::vector<Shape> inputs;
    for (const ValueId v : node.inputs) inputs.push_back(graph.shape_of(v));
    row.flops += entry.flops(node.attrs, inputs, graph.shape_of(node.output));
    for (const int p : node.parameters) row.parameters += graph.parameters[at(p)].shape.elements();
  }
  row.layer = graph.nodes[at(nodes.front())].name;
  row.output = graph.shape_of(output);
  return row;
}

}  // namespace lockstep
