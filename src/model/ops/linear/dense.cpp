#include "model/ops/linear/dense.h"

#include "core/error.h"
#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  const auto& a = attrs.as<DenseAttrs>();
  require(inputs.size() == 1, "dense takes one input");
  if (inputs[0].rank() != 1 && inputs[0].rank() != 2) {
    refuse(layer, "dense takes (features) or (positions, features), but its input is " + inputs[0].text() +
                      "; put a flatten before it to make that (" + std::to_string(inputs[0].elements()) +
                      ")");
  }
  if (a.out_features < 1 || a.out_features > largest_tensor) {
    refuse(layer, std::to_string(a.out_features) + " output features, but there must be between 1 and 2^40");
  }
  const std::int64_t in = inputs[0].dims().back();
  checked(Shape{a.out_features, in}, layer, "its weight");
  if (inputs[0].rank() == 1) return Shape{a.out_features};
  return checked(Shape{inputs[0][0], a.out_features}, layer, "its output");
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape& output) {
  return saturating_mul(2, saturating_mul(inputs[0].elements(), output.dims().back()));
}

void forward(const OpNode& node, const Graph& graph, const ReferenceContext&,
             const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>& parameters,
             const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  const std::size_t in = at(graph.shape_of(node.inputs[0]).dims().back());
  const std::size_t out = at(graph.shape_of(node.output).dims().back());
  const std::size_t vectors = inputs[0]->size() / in;
  const bool bias = node.attrs.as<DenseAttrs>().bias;
  output.assign(vectors * out, 0.0);
  for (std::size_t n = 0; n < vectors; ++n) {
    for (std::size_t o = 0; o < out; ++o) {
      double sum = bias ? (*parameters[1])[o] : 0.0;
      for (std::size_t i = 0; i < in; ++i) sum += (*parameters[0])[o * in + i] * (*inputs[0])[n * in + i];
      output[n * out + o] = sum;
    }
  }
}

void backward(const OpNode& node, const Graph& graph, const ReferenceContext&,
              const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>& parameters,
              const Tensor64&, const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>& diff_parameters) {
  const std::size_t in = at(graph.shape_of(node.inputs[0]).dims().back());
  const std::size_t out = at(graph.shape_of(node.output).dims().back());
  const std::size_t vectors = inputs[0]->size() / in;
  const bool bias = node.attrs.as<DenseAttrs>().bias;
  for (std::size_t n = 0; n < vectors; ++n) {
    for (std::size_t o = 0; o < out; ++o) {
      const double d = diff_output[n * out + o];
      for (std::size_t i = 0; i < in; ++i) {
        (*diff_parameters[0])[o * in + i] += d * (*inputs[0])[n * in + i];
        if (diff_inputs[0] != nullptr) (*diff_inputs[0])[n * in + i] += d * (*parameters[0])[o * in + i];
      }
      if (bias) (*diff_parameters[1])[o] += d;
    }
  }
}

OpParameters parameters(const OpAttrs& attrs, const std::vector<Shape>& inputs,
                        std::optional<InitKind> init) {
  const auto& a = attrs.as<DenseAttrs>();
  const InitKind drawn = init.value_or(InitKind::torch_linear);
  const std::int64_t in = inputs[0].dims().back(), out = a.out_features;
  OpParameters learned;
  learned.parameters.push_back({"weight", Shape{out, in}, drawn, in, out});
  if (a.bias) learned.parameters.push_back({"bias", Shape{out}, bias_init(drawn), in, out});
  return learned;
}

OpAttrs read(const LayerArguments& a) {
  return DenseAttrs{a.numbers(1, 1, 1, "dense:N")[0], a.flag("bias", true)};
}

std::vector<OpExample> examples() {
  return {{DenseAttrs{10, true}, {{17}}},
          {DenseAttrs{1, false}, {{3}}},
          {DenseAttrs{33, true}, {{64}}},
          {DenseAttrs{5, true}, {{3, 8}}}};
}

}  // namespace

const OpEntry& dense_op() {
  static const OpEntry entry = {.name = "dense",
                                .traits = {.layout = OpTraits::Layout::any,
                                           .mixes_rows = false,
                                           .zero_rows = OpTraits::ZeroRows::kept_without_bias,
                                           .has_independent_kernel = true,
                                           .takes_bf16 = true},
                                .infer = infer,
                                .flops = flops,
                                .forward = forward,
                                .backward = backward,
                                .parameters = parameters,
                                .length = same_length,
                                .layer = {"dense:10,bias=0", true, {"bias"}, read},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
