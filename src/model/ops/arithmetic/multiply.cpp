#include "model/ops/arithmetic/multiply.h"

#include "core/error.h"
#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs&, const std::vector<Shape>& inputs, const std::string& layer) {
  require(inputs.size() == 2, "multiply takes two inputs");
  if (!(inputs[0] == inputs[1]))
    refuse(layer, "its inputs " + inputs[0].text() + " and " + inputs[1].text() + " must be equal in shape");
  return inputs[0];
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>&, const Shape& output) {
  return output.elements();
}

void forward(const OpNode&, const Graph&, const ReferenceContext&, const std::vector<const Tensor64*>& inputs,
             const std::vector<const Tensor64*>&, const std::vector<const Tensor64*>&, Tensor64& output,
             std::vector<Tensor64>&) {
  output = *inputs[0];
  for (std::size_t e = 0; e < output.size(); ++e) output[e] *= (*inputs[1])[e];
}

void backward(const OpNode&, const Graph&, const ReferenceContext&,
              const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
              const Tensor64&, const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>&) {
  for (std::size_t k = 0; k < 2; ++k)
    for (std::size_t e = 0; diff_inputs[k] != nullptr && e < diff_output.size(); ++e)
      (*diff_inputs[k])[e] += diff_output[e] * (*inputs[1 - k])[e];
}

std::vector<OpExample> examples() {
  return {{MultiplyAttrs{}, {{9}, {9}}},
          {MultiplyAttrs{}, {{16, 3, 5}, {16, 3, 5}}},
          {MultiplyAttrs{}, {{4, 7}, {4, 7}}}};
}

}  // namespace

const OpEntry& multiply_op() {
  static const OpEntry entry = {.name = "multiply",
                                .traits = {.layout = OpTraits::Layout::follows,
                                           .mixes_rows = false,
                                           .zero_rows = OpTraits::ZeroRows::kept,
                                           .independent = true,
                                           .keeps_padding = true},
                                .infer = infer,
                                .flops = flops,
                                .forward = forward,
                                .backward = backward,
                                .length = same_length,
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
