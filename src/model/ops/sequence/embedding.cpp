#include "model/ops/sequence/embedding.h"

#include "core/error.h"
#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  const auto& a = attrs.as<EmbeddingAttrs>();
  require(inputs.size() == 1, "embedding takes one input");
  checked(Shape{a.vocabulary, a.width}, layer, "its weight");
  std::vector<std::int64_t> dims = inputs[0].dims();
  dims.push_back(a.width);
  return checked(Shape(dims), layer, "its output");
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>&, const Shape&) {
  return 0;
}

std::size_t place_of(double id, std::size_t vocabulary) {
  require(id >= 0 && id < static_cast<double>(vocabulary), "a number outside the vocabulary");
  return static_cast<std::size_t>(id);
}

void forward(const OpNode& node, const Graph&, const ReferenceContext&,
             const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>& parameters,
             const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  const auto& a = node.attrs.as<EmbeddingAttrs>();
  const std::size_t width = at(a.width);
  output.assign(inputs[0]->size() * width, 0.0);
  for (std::size_t n = 0; n < inputs[0]->size(); ++n) {
    const std::size_t from = place_of((*inputs[0])[n], at(a.vocabulary)) * width;
    for (std::size_t d = 0; d < width; ++d) output[n * width + d] = (*parameters[0])[from + d];
  }
}

void backward(const OpNode& node, const Graph&, const ReferenceContext&,
              const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
              const Tensor64&, const Tensor64& diff_output, const std::vector<Tensor64*>&,
              const std::vector<Tensor64*>& diff_parameters) {
  const auto& a = node.attrs.as<EmbeddingAttrs>();
  const std::size_t width = at(a.width);
  for (std::size_t n = 0; n < inputs[0]->size(); ++n) {
    const std::size_t to = place_of((*inputs[0])[n], at(a.vocabulary)) * width;
    for (std::size_t d = 0; d < width; ++d) (*diff_parameters[0])[to + d] += diff_output[n * width + d];
  }
}

OpParameters parameters(const OpAttrs& attrs, const std::vector<Shape>&, std::optional<InitKind> init) {
  const auto& a = attrs.as<EmbeddingAttrs>();
  OpParameters learned;
  learned.parameters.push_back(
      {"weight", Shape{a.vocabulary, a.width}, init.value_or(InitKind::torch_linear), a.width, a.vocabulary});
  return learned;
}

std::vector<OpExample> examples() {
  return {{EmbeddingAttrs{11, 8}, {{6}}, {DType::i32}}, {EmbeddingAttrs{3, 5}, {{2, 4}}, {DType::i32}}};
}

}  // namespace

const OpEntry& embedding_op() {
  static const OpEntry entry = {.name = "embedding",
                                .traits = {.layout = OpTraits::Layout::plain,
                                           .mixes_rows = false,
                                           .independent = true,
                                           .takes = DType::i32},
                                .infer = infer,
                                .flops = flops,
                                .forward = forward,
                                .backward = backward,
                                .parameters = parameters,
                                .length = same_length,
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
