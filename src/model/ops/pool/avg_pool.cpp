#include "model/ops/pool/avg_pool.h"

#include "model/ops/pool/pool_rules.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  return infer_pool<AvgPoolAttrs>(attrs, inputs, "avgpool", layer);
}

/// Calls fn(input element, output element, 1 / elements of the window inside the image) for every pair.
template <class Fn>
void for_each_share(const OpNode& node, const Graph& graph, std::int64_t rows, Fn fn) {
  const Window window = pool_window<AvgPoolAttrs>(node.attrs);
  const Image in = image_of(graph.shape_of(node.inputs[0]));
  const Image out = image_of(graph.shape_of(node.output));
  for (std::int64_t plane = 0; plane < rows * in.c; ++plane) {
    for (std::int64_t y = 0; y < out.h; ++y) {
      for (std::int64_t x = 0; x < out.w; ++x) {
        std::int64_t inside = 0;
        for_each_tap(window, in, y, x, [&](auto, auto, auto, auto) { ++inside; });
        for_each_tap(window, in, y, x, [&](auto iy, auto ix, auto, auto) {
          fn(at((plane * in.h + iy) * in.w + ix), at((plane * out.h + y) * out.w + x),
             1.0 / static_cast<double>(inside));
        });
      }
    }
  }
}

void forward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
             const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
             const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  output.assign(at(ctx.rows * graph.shape_of(node.output).elements()), 0.0);
  for_each_share(node, graph, ctx.rows, [&](std::size_t from, std::size_t to, double share) {
    output[to] += share * (*inputs[0])[from];
  });
}

void backward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
              const std::vector<const Tensor64*>&, const std::vector<const Tensor64*>&, const Tensor64&,
              const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>&) {
  if (diff_inputs[0] == nullptr) return;
  for_each_share(node, graph, ctx.rows, [&](std::size_t from, std::size_t to, double share) {
    (*diff_inputs[0])[from] += share * diff_output[to];
  });
}

std::vector<OpExample> examples() {
  return {{AvgPoolAttrs{2, 2, 2, 2, 0, 0}, {{3, 6, 4}}}, {AvgPoolAttrs{3, 2, 1, 2, 1, 0}, {{16, 5, 6}}}};
}

}  // namespace

const OpEntry& avg_pool_op() {
  static const OpEntry entry = {
      .name = "avgpool",
      .traits = {.layout = OpTraits::Layout::follows,
                 .mixes_rows = false,
                 .zero_rows = OpTraits::ZeroRows::kept,
                 .independent = true},
      .infer = infer,
      .flops = pool_flops<AvgPoolAttrs>,
      .forward = forward,
      .backward = backward,
      .layer = {"avgpool:2,stride=2,pad=0", true, {"stride", "pad"}, read_pool<AvgPoolAttrs>},
      .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
