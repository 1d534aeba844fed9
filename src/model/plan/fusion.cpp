#include "model/plan/fusion.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <variant>

#include "core/index.h"
#include "model/ops/activation/relu.h"
#include "model/ops/arithmetic/add.h"
#include "model/ops/linear/conv2d.h"
#include "model/ops/linear/dense.h"
#include "model/ops/norm/batch_norm.h"

namespace lockstep {
namespace {

template <class T>
bool holds(const OpNode& node) {
  return node.attrs.is<T>();
}

/// Nodes that read each value.
std::vector<std::vector<int>> consumers_of(const Graph& graph) {
  std::vector<std::vector<int>> out(graph.values.size());
  for (int n = 0; n < static_cast<int>(graph.nodes.size()); ++n)
    for (const ValueId v : graph.nodes[at(n)].inputs) out[at(v)].push_back(n);
  return out;
}

}  // namespace

std::vector<FusedOp> fuse_ops(const Graph& graph) {
  const auto consumers = consumers_of(graph);
  auto sole_consumer = [&](int n) -> std::optional<int> {
    const ValueId v = graph.nodes[at(n)].output;
    if (v == graph.output || consumers[at(v)].size() != 1) return std::nullopt;
    return consumers[at(v)].front();
  };
  std::set<int> taken;
  std::map<int, FusedOp> by_place;
  for (int n = 0; n < static_cast<int>(graph.nodes.size()); ++n) {
    if (taken.count(n) != 0) continue;
    const OpNode& node = graph.nodes[at(n)];
    FusedOp fused{{n}, false, false, node.inputs, node.output};
    const bool linear = holds<Conv2dAttrs>(node) || holds<DenseAttrs>(node);
    const bool norm = holds<BatchNormAttrs>(node);
    std::optional<int> next = linear || norm ? sole_consumer(n) : std::nullopt;
    if (norm && next && holds<AddAttrs>(graph.nodes[at(*next)]) && taken.count(*next) == 0) {
      const OpNode& add = graph.nodes[at(*next)];
      const std::optional<int> after = sole_consumer(*next);
      if (add.inputs[0] != add.inputs[1] && after && holds<ReluAttrs>(graph.nodes[at(*after)])) {
        fused.residual = true;
        fused.inputs.push_back(add.inputs[0] == node.output ? add.inputs[1] : add.inputs[0]);
        fused.nodes.push_back(*next);
        taken.insert(*next);
        next = after;
      } else {
        next.reset();
      }
    }
    if (next && holds<ReluAttrs>(graph.nodes[at(*next)])) {
      fused.relu = true;
      fused.nodes.push_back(*next);
      taken.insert(*next);
    }
    fused.output = graph.nodes[at(fused.nodes.back())].output;
    by_place.emplace(fused.nodes.back(), std::move(fused));
  }
  std::vector<FusedOp> out;
  out.reserve(by_place.size());
  for (auto& [place, fused] : by_place) out.push_back(std::move(fused));
  return out;
}

std::vector<bool> values_with_gradient(const Graph& graph) {
  std::vector<bool> needed(graph.values.size(), false);
  for (const OpNode& node : graph.nodes) {
    bool any = std::any_of(node.parameters.begin(), node.parameters.end(),
                           [&](int p) { return graph.parameters[at(p)].trainable; });
    for (const ValueId v : node.inputs) any = any || needed[at(v)];
    needed[at(node.output)] = any;
  }
  return needed;
}

}  // namespace lockstep
