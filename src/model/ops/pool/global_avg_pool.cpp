#include "model/ops/pool/global_avg_pool.h"

#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs&, const std::vector<Shape>& inputs, const std::string& layer) {
  return Shape{one_image(inputs, "gap", layer).c, 1, 1};
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return inputs[0].elements();
}

void forward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
             const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
             const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  const Image in = image_of(graph.shape_of(node.inputs[0]));
  const std::size_t area = at(in.h * in.w);
  output.assign(at(ctx.rows * in.c), 0.0);
  for (std::size_t plane = 0; plane < output.size(); ++plane) {
    for (std::size_t e = 0; e < area; ++e) output[plane] += (*inputs[0])[plane * area + e];
    output[plane] /= static_cast<double>(area);
  }
}

void backward(const OpNode& node, const Graph& graph, const ReferenceContext&,
              const std::vector<const Tensor64*>&, const std::vector<const Tensor64*>&, const Tensor64&,
              const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>&) {
  if (diff_inputs[0] == nullptr) return;
  const Image in = image_of(graph.shape_of(node.inputs[0]));
  const std::size_t area = at(in.h * in.w);
  for (std::size_t e = 0; e < diff_inputs[0]->size(); ++e) {
    (*diff_inputs[0])[e] += diff_output[e / area] / static_cast<double>(area);
  }
}

std::vector<OpExample> examples() {
  return {{GlobalAvgPoolAttrs{}, {{3, 5, 4}}}, {GlobalAvgPoolAttrs{}, {{16, 7, 7}}}};
}

}  // namespace

const OpEntry& global_avg_pool_op() {
  static const OpEntry entry = {.name = "gap",
                                .traits = {.layout = OpTraits::Layout::follows,
                                           .mixes_rows = false,
                                           .zero_rows = OpTraits::ZeroRows::kept,
                                           .independent = true},
                                .infer = infer,
                                .flops = flops,
                                .forward = forward,
                                .backward = backward,
                                .layer = {"gap", false, {}, read_nothing<GlobalAvgPoolAttrs>},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
