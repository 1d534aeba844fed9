#include "model/cuda/plan/norm_fusion.h"

#include <algorithm>
#include <variant>

#include "core/index.h"
#include "model/ops/activation/softmax.h"
#include "model/ops/linear/conv2d.h"
#include "model/ops/linear/dense.h"
#include "model/ops/norm/batch_norm.h"
#include "model/ops/random/dropout.h"

namespace lockstep::cuda {
namespace {

template <class Attrs>
bool is(const lockstep::Graph& graph, const FusedOp& op) {
  return graph.nodes[at(op.nodes.front())].attrs.is<Attrs>();
}

/// A weight and nothing else.
bool has_no_bias(const lockstep::Graph& graph, const FusedOp& op) {
  return graph.nodes[at(op.nodes.front())].parameters.size() == 1;
}

}  // namespace

std::vector<bool> values_with_zero_rows(const lockstep::Graph& graph, const std::vector<FusedOp>& ops) {
  std::vector<bool> zero(graph.values.size(), false);
  for (const ValueId v : graph.inputs) zero[at(v)] = true;
  for (const FusedOp& op : ops) {
    bool keeps = std::all_of(op.inputs.begin(), op.inputs.end(), [&](ValueId v) { return zero[at(v)]; });
    switch (graph.nodes[at(op.nodes.front())].attrs.entry().traits.zero_rows) {
      case OpTraits::ZeroRows::lost:
        keeps = false;
        break;
      case OpTraits::ZeroRows::kept:
        break;
      case OpTraits::ZeroRows::kept_without_bias:
        keeps = keeps && has_no_bias(graph, op);
        break;
      case OpTraits::ZeroRows::made:
        keeps = true;
        break;
    }
    zero[at(op.output)] = keeps;
  }
  return zero;
}

NormFusion fuse_norms(const lockstep::Graph& graph, const std::vector<FusedOp>& ops, bool training,
                      Precision precision) {
  NormFusion fusion(ops.size());
  if (training && bytes_of(precision) != 2) return fusion;
  const std::vector<bool> zero = values_with_zero_rows(graph, ops);
  std::vector<int> producer(graph.values.size(), -1), readers(graph.values.size(), 0);
  for (int i = 0; i < static_cast<int>(ops.size()); ++i) {
    producer[at(ops[at(i)].output)] = i;
    for (const ValueId v : ops[at(i)].inputs) ++readers[at(v)];
  }
  ++readers[at(graph.output)];
  for (int i = 0; i < static_cast<int>(ops.size()); ++i) {
    if (!is<BatchNormAttrs>(graph, ops[at(i)])) {
      if (!training || !is<Conv2dAttrs>(graph, ops[at(i)])) continue;
      const ValueId v = ops[at(i)].inputs[0];
      const int norm = producer[at(v)];
      if (norm >= 0 && is<BatchNormAttrs>(graph, ops[at(norm)]) && ops[at(norm)].relu &&
          !ops[at(norm)].residual && readers[at(v)] == 1)
        fusion.masked_by[at(norm)] = i;
      continue;
    }
    const ValueId x = ops[at(i)].inputs[0];
    const int from = producer[at(x)];
    if (from < 0 || !is<Conv2dAttrs>(graph, ops[at(from)]) || ops[at(from)].relu) continue;
    if (training && zero[at(x)]) fusion.sums_from[at(i)] = from;
    if (!training && readers[at(x)] == 1) fusion.joins[at(from)] = i;
  }
  return fusion;
}

}  // namespace lockstep::cuda
