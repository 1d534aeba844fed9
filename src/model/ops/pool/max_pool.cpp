#include "model/ops/pool/max_pool.h"

#include "model/ops/pool/pool_rules.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  return infer_pool<MaxPoolAttrs>(attrs, inputs, "maxpool", layer);
}

/// Calls fn(winning input element, output element) for every window.
template <class Fn>
void for_each_winner(const OpNode& node, const Graph& graph, std::int64_t rows, const Tensor64& x, Fn fn) {
  const Image in = image_of(graph.shape_of(node.inputs[0]));
  const Image out = image_of(graph.shape_of(node.output));
  for (std::int64_t plane = 0; plane < rows * in.c; ++plane) {
    for (std::int64_t y = 0; y < out.h; ++y) {
      for (std::int64_t column = 0; column < out.w; ++column) {
        std::int64_t winner = -1;
        for_each_tap(pool_window<MaxPoolAttrs>(node.attrs), in, y, column, [&](auto iy, auto ix, auto, auto) {
          const std::int64_t element = (plane * in.h + iy) * in.w + ix;
          if (winner < 0 || x[at(element)] > x[at(winner)]) winner = element;
        });
        fn(at(winner), at((plane * out.h + y) * out.w + column));
      }
    }
  }
}

void forward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
             const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
             const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  output.assign(at(ctx.rows * graph.shape_of(node.output).elements()), 0.0);
  for_each_winner(node, graph, ctx.rows, *inputs[0],
                  [&](std::size_t from, std::size_t to) { output[to] = (*inputs[0])[from]; });
}

void backward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
              const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
              const Tensor64&, const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>&) {
  if (diff_inputs[0] == nullptr) return;
  for_each_winner(node, graph, ctx.rows, *inputs[0],
                  [&](std::size_t from, std::size_t to) { (*diff_inputs[0])[from] += diff_output[to]; });
}

std::vector<OpExample> examples() {
  return {{MaxPoolAttrs{2, 2, 2, 2, 0, 0}, {{3, 6, 4}}}, {MaxPoolAttrs{3, 2, 1, 2, 1, 0}, {{16, 5, 6}}}};
}

}  // namespace

const OpEntry& max_pool_op() {
  static const OpEntry entry = {
      .name = "maxpool",
      .traits = {.layout = OpTraits::Layout::follows,
                 .mixes_rows = false,
                 .zero_rows = OpTraits::ZeroRows::kept,
                 .independent = true},
      .infer = infer,
      .flops = pool_flops<MaxPoolAttrs>,
      .forward = forward,
      .backward = backward,
      .layer = {"maxpool:2,stride=2,pad=0", true, {"stride", "pad"}, read_pool<MaxPoolAttrs>},
      .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
