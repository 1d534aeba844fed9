#include "model/ops/sequence/sequence_mean.h"

#include "core/error.h"
#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs&, const std::vector<Shape>& inputs, const std::string& layer) {
  require(inputs.size() == 1, "sequence_mean takes one input");
  if (inputs[0].rank() != 2)
    refuse(layer, "sequence_mean takes (positions, features), but its input is " + inputs[0].text());
  return Shape{inputs[0][1]};
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return inputs[0].elements();
}

void forward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
             const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
             const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  const Shape& in = graph.shape_of(node.inputs[0]);
  output.assign(at(ctx.rows * in[1]), 0.0);
  for (std::int64_t n = 0; n < ctx.rows; ++n)
    for (std::int64_t f = 0; f < in[1]; ++f)
      output[at(n * in[1] + f)] = tiled_mean(ctx.length(n, in[0]), [&](std::int64_t t) {
        return (*inputs[0])[at((n * in[0] + t) * in[1] + f)];
      });
}

void backward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
              const std::vector<const Tensor64*>&, const std::vector<const Tensor64*>&, const Tensor64&,
              const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>&) {
  if (diff_inputs[0] == nullptr) return;
  const Shape& in = graph.shape_of(node.inputs[0]);
  for (std::int64_t n = 0; n < ctx.rows; ++n) {
    const std::int64_t length = ctx.length(n, in[0]);
    for (std::int64_t t = 0; t < length; ++t)
      for (std::int64_t f = 0; f < in[1]; ++f)
        (*diff_inputs[0])[at((n * in[0] + t) * in[1] + f)] +=
            diff_output[at(n * in[1] + f)] / static_cast<double>(length);
  }
}

std::vector<OpExample> examples() {
  return {{SequenceMeanAttrs{}, {{7, 4}}}, {SequenceMeanAttrs{}, {{130, 3}}}};
}

}  // namespace

const OpEntry& sequence_mean_op() {
  static const OpEntry entry = {.name = "sequence_mean",
                                .traits = {.layout = OpTraits::Layout::plain,
                                           .mixes_rows = false,
                                           .zero_rows = OpTraits::ZeroRows::kept,
                                           .independent = true,
                                           .reads_lengths = true},
                                .infer = infer,
                                .flops = flops,
                                .forward = forward,
                                .backward = backward,
                                .layer = {"sequence_mean", false, {}, read_nothing<SequenceMeanAttrs>},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
