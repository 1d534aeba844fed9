#include "model/ops/activation/softmax.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs&, const std::vector<Shape>& inputs, const std::string& layer) {
  require(inputs.size() == 1, "softmax takes one input");
  if (inputs[0].rank() == 0) refuse(layer, "softmax needs an axis, but its input is a scalar");
  return inputs[0];
}

/// A comparison, a subtraction, an exponential, an addition and a division per element.
std::int64_t flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return saturating_mul(5, inputs[0].elements());
}

std::size_t last_axis(const OpNode& node, const Graph& graph) {
  return at(graph.shape_of(node.output).dims().back());
}

void forward(const OpNode& node, const Graph& graph, const ReferenceContext&,
             const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
             const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  const std::size_t axis = last_axis(node, graph);
  const Tensor64& x = *inputs[0];
  output.assign(x.size(), 0.0);
  for (std::size_t first = 0; first < x.size(); first += axis) {
    double largest = x[first];
    for (std::size_t e = first; e < first + axis; ++e) largest = std::max(largest, x[e]);
    double sum = 0;
    for (std::size_t e = first; e < first + axis; ++e) sum += output[e] = std::exp(x[e] - largest);
    for (std::size_t e = first; e < first + axis; ++e) output[e] /= sum;
  }
}

void backward(const OpNode& node, const Graph& graph, const ReferenceContext&,
              const std::vector<const Tensor64*>&, const std::vector<const Tensor64*>&,
              const Tensor64& output, const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>&) {
  if (diff_inputs[0] == nullptr) return;
  const std::size_t axis = last_axis(node, graph);
  for (std::size_t first = 0; first < output.size(); first += axis) {
    double dot = 0;
    for (std::size_t e = first; e < first + axis; ++e) dot += output[e] * diff_output[e];
    for (std::size_t e = first; e < first + axis; ++e) {
      (*diff_inputs[0])[e] += output[e] * (diff_output[e] - dot);
    }
  }
}

std::vector<OpExample> examples() {
  return {{SoftmaxAttrs{}, {{10}}}, {SoftmaxAttrs{}, {{3, 4, 5}}}};
}

}  // namespace

const OpEntry& softmax_op() {
  static const OpEntry entry = {.name = "softmax",
                                .traits = {.layout = OpTraits::Layout::plain,
                                           .mixes_rows = false,
                                           .zero_rows = OpTraits::ZeroRows::lost,
                                           .independent = true},
                                .infer = infer,
                                .flops = flops,
                                .forward = forward,
                                .backward = backward,
                                .length = same_length,
                                .layer = {"softmax", false, {}, read_nothing<SoftmaxAttrs>},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
