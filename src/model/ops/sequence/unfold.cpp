#include "model/ops/sequence/unfold.h"

#include "core/error.h"
#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  const auto& a = attrs.as<UnfoldAttrs>();
  require(inputs.size() == 1, "unfold takes one input");
  if (inputs[0].rank() != 2)
    refuse(layer, "unfold takes (positions, features), but its input is " + inputs[0].text());
  if (a.width < 1 || a.width > largest_tensor || a.before < 0 || a.before >= a.width)
    refuse(layer, "a window of " + std::to_string(a.width) + " positions with " + std::to_string(a.before) +
                      " of them before its own: there must be at least one, and fewer before than in all");
  return checked(Shape{inputs[0][0], saturating_mul(a.width, inputs[0][1])}, layer, "its output");
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>&, const Shape&) {
  return 0;
}

/// Calls fn(input element, output element) for all that are the same number.
template <class Fn>
void for_each_pair(const OpNode& node, const Graph& graph, std::int64_t rows, Fn fn) {
  const auto& a = node.attrs.as<UnfoldAttrs>();
  const Shape& in = graph.shape_of(node.inputs[0]);
  const std::int64_t positions = in[0], features = in[1];
  for (std::int64_t n = 0; n < rows; ++n)
    for (std::int64_t t = 0; t < positions; ++t)
      for (std::int64_t j = 0; j < a.width; ++j) {
        const std::int64_t from = t + j - a.before;
        if (from < 0 || from >= positions) continue;
        for (std::int64_t f = 0; f < features; ++f)
          fn(at((n * positions + from) * features + f),
             at(((n * positions + t) * a.width + j) * features + f));
      }
}

void forward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
             const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
             const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  output.assign(at(ctx.rows * graph.shape_of(node.output).elements()), 0.0);
  for_each_pair(node, graph, ctx.rows,
                [&](std::size_t from, std::size_t to) { output[to] = (*inputs[0])[from]; });
}

void backward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
              const std::vector<const Tensor64*>&, const std::vector<const Tensor64*>&, const Tensor64&,
              const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>&) {
  if (diff_inputs[0] == nullptr) return;
  for_each_pair(node, graph, ctx.rows,
                [&](std::size_t from, std::size_t to) { (*diff_inputs[0])[from] += diff_output[to]; });
}

OpAttrs read(const LayerArguments& a) {
  const std::int64_t width = a.numbers(1, 1, 1, "unfold:WIDTH")[0];
  return UnfoldAttrs{width, a.number("before", 0, (width - 1) / 2)};
}

std::vector<OpExample> examples() {
  return {{UnfoldAttrs{3, 1}, {{7, 4}}}, {UnfoldAttrs{4, 3}, {{3, 5}}}, {UnfoldAttrs{1, 0}, {{2, 2}}}};
}

}  // namespace

const OpEntry& unfold_op() {
  static const OpEntry entry = {.name = "unfold",
                                .traits = {.layout = OpTraits::Layout::plain,
                                           .mixes_rows = false,
                                           .zero_rows = OpTraits::ZeroRows::kept,
                                           .independent = true},
                                .infer = infer,
                                .flops = flops,
                                .forward = forward,
                                .backward = backward,
                                .length = same_length,
                                .layer = {"unfold:3,before=1", true, {"before"}, read},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
