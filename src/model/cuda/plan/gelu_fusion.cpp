#include "model/cuda/plan/gelu_fusion.h"

#include <variant>

#include "core/index.h"
#include "model/ops/activation/gelu.h"
#include "model/ops/linear/dense.h"

namespace lockstep::cuda {
namespace {

constexpr std::int64_t row_multiple = 8;

template <class Attrs>
bool is(const lockstep::Graph& graph, const FusedOp& op) {
  return graph.nodes[at(op.nodes.front())].attrs.is<Attrs>();
}

}  // namespace

GeluFusion fuse_gelus(const lockstep::Graph& graph, const std::vector<FusedOp>& ops, Precision precision) {
  GeluFusion fusion(ops.size());
  if (precision == Precision::fp32) return fusion;
  std::vector<int> producer(graph.values.size(), -1), reader(graph.values.size(), -1);
  std::vector<int> readers(graph.values.size(), 0);
  for (int i = 0; i < static_cast<int>(ops.size()); ++i) {
    producer[at(ops[at(i)].output)] = i;
    for (const ValueId v : ops[at(i)].inputs) {
      reader[at(v)] = i;
      ++readers[at(v)];
    }
  }
  ++readers[at(graph.output)];
  for (int i = 0; i < static_cast<int>(ops.size()); ++i) {
    const FusedOp& gelu = ops[at(i)];
    if (!is<GeluAttrs>(graph, gelu)) continue;
    const ValueId x = gelu.inputs[0], y = gelu.output;
    const Shape& shape = graph.shape_of(x);
    if (shape.rank() != 1 || shape.elements() % row_multiple != 0) continue;
    const int from = producer[at(x)], to = reader[at(y)];
    if (from >= 0 && readers[at(x)] == 1 && is<DenseAttrs>(graph, ops[at(from)]) && !ops[at(from)].relu)
      fusion.given_by[at(i)] = from;
    if (to >= 0 && readers[at(y)] == 1 && is<DenseAttrs>(graph, ops[at(to)])) fusion.slope_by[at(i)] = to;
  }
  return fusion;
}

}  // namespace lockstep::cuda
