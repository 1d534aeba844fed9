#include "model/ops/activation/relu.h"

#include "core/error.h"
#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs&, const std::vector<Shape>& inputs, const std::string&) {
  require(inputs.size() == 1, "relu takes one input");
  return inputs[0];
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return inputs[0].elements();
}

void forward(const OpNode&, const Graph&, const ReferenceContext&, const std::vector<const Tensor64*>& inputs,
             const std::vector<const Tensor64*>&, const std::vector<const Tensor64*>&, Tensor64& output,
             std::vector<Tensor64>&) {
  output = *inputs[0];
  for (double& y : output) {
    if (y < 0) y = 0;  // NaN stays
  }
}

void backward(const OpNode&, const Graph&, const ReferenceContext&,
              const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
              const Tensor64&, const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>&) {
  if (diff_inputs[0] == nullptr) return;
  for (std::size_t e = 0; e < diff_output.size(); ++e) {
    if ((*inputs[0])[e] > 0) (*diff_inputs[0])[e] += diff_output[e];
  }
}

std::vector<OpExample> examples() {
  return {{ReluAttrs{}, {{33}}}, {ReluAttrs{}, {{16, 3, 5}}}};
}

}  // namespace

const OpEntry& relu_op() {
  static const OpEntry entry = {.name = "relu",
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
                                .layer = {"relu", false, {}, read_nothing<ReluAttrs>},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
