#include "model/ops/linear/matmul.h"

#include "core/error.h"
#include "model/graph/op_support.h"

namespace lockstep {

MatmulShape::MatmulShape(const OpAttrs& attrs, const Shape& a, const Shape& b)
    : transposed(attrs.as<MatmulAttrs>().transposed) {
  m = a[a.rank() - 2];
  k = a[a.rank() - 1];
  n = b[b.rank() - (transposed ? 2 : 1)];
  for (std::size_t d = 0; d + 2 < a.rank(); ++d) products *= a[d];
}

namespace ops {
namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  if (inputs.size() != 2) refuse(layer, "matmul takes two values, but got " + std::to_string(inputs.size()));
  const Shape &a = inputs[0], &b = inputs[1];
  const bool transposed = attrs.as<MatmulAttrs>().transposed;
  bool fits = a.rank() >= 2 && a.rank() == b.rank();
  for (std::size_t d = 0; fits && d + 2 < a.rank(); ++d) fits = a[d] == b[d];
  fits = fits && a[a.rank() - 1] == b[b.rank() - (transposed ? 1 : 2)];
  if (!fits)
    refuse(layer, "matmul of " + a.text() + " and " + b.text() + (transposed ? " transposed" : "") +
                      ": the axes before the last two must be equal, and so must the summed one");
  std::vector<std::int64_t> dims = a.dims();
  dims.back() = b[b.rank() - (transposed ? 2 : 1)];
  return checked(Shape(dims), layer, "its output");
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape& output) {
  return saturating_mul(2, saturating_mul(output.elements(), inputs[0].dims().back()));
}

/// Calls fn(place in a, place in b, place in c) for every product of two elements, k ascending.
template <class Fn>
void for_each_term(const OpNode& node, const Graph& graph, std::int64_t rows, Fn fn) {
  const MatmulShape s(node.attrs, graph.shape_of(node.inputs[0]), graph.shape_of(node.inputs[1]));
  for (std::int64_t p = 0; p < rows * s.products; ++p)
    for (std::int64_t i = 0; i < s.m; ++i)
      for (std::int64_t j = 0; j < s.n; ++j)
        for (std::int64_t k = 0; k < s.k; ++k)
          fn(at((p * s.m + i) * s.k + k), at(p * s.k * s.n + s.b_at(k, j)), at((p * s.m + i) * s.n + j));
}

void forward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
             const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
             const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  output.assign(at(ctx.rows * graph.shape_of(node.output).elements()), 0.0);
  for_each_term(node, graph, ctx.rows, [&](std::size_t a, std::size_t b, std::size_t c) {
    output[c] += (*inputs[0])[a] * (*inputs[1])[b];
  });
}

void backward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
              const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
              const Tensor64&, const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>&) {
  for_each_term(node, graph, ctx.rows, [&](std::size_t a, std::size_t b, std::size_t c) {
    if (diff_inputs[0] != nullptr) (*diff_inputs[0])[a] += diff_output[c] * (*inputs[1])[b];
    if (diff_inputs[1] != nullptr) (*diff_inputs[1])[b] += diff_output[c] * (*inputs[0])[a];
  });
}

std::vector<OpExample> examples() {
  return {{MatmulAttrs{false}, {{3, 5}, {5, 4}}},
          {MatmulAttrs{true}, {{2, 3, 7}, {2, 4, 7}}},
          {MatmulAttrs{false}, {{2, 2, 1, 20}, {2, 2, 20, 33}}}};
}

}  // namespace

const OpEntry& matmul_op() {
  static const OpEntry entry = {.name = "matmul",
                                .traits = {.layout = OpTraits::Layout::plain,
                                           .mixes_rows = false,
                                           .zero_rows = OpTraits::ZeroRows::kept,
                                           .independent = true},
                                .infer = infer,
                                .flops = flops,
                                .forward = forward,
                                .backward = backward,
                                .examples = examples};
  return entry;
}

}  // namespace ops
}  // namespace lockstep
