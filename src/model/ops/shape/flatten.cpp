#include "model/ops/shape/flatten.h"

#include "core/error.h"
#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs&, const std::vector<Shape>& inputs, const std::string& layer) {
  require(inputs.size() == 1, "flatten takes one input");
  checked(inputs[0], layer, "its input");
  return Shape{inputs[0].elements()};
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>&, const Shape&) {
  return 0;
}

void forward(const OpNode&, const Graph&, const ReferenceContext&, const std::vector<const Tensor64*>& inputs,
             const std::vector<const Tensor64*>&, const std::vector<const Tensor64*>&, Tensor64& output,
             std::vector<Tensor64>&) {
  output = *inputs[0];
}

void backward(const OpNode&, const Graph&, const ReferenceContext&, const std::vector<const Tensor64*>&,
              const std::vector<const Tensor64*>&, const Tensor64&, const Tensor64& diff_output,
              const std::vector<Tensor64*>& diff_inputs, const std::vector<Tensor64*>&) {
  if (diff_inputs[0] == nullptr) return;
  for (std::size_t e = 0; e < diff_output.size(); ++e) (*diff_inputs[0])[e] += diff_output[e];
}

std::vector<OpExample> examples() {
  return {{FlattenAttrs{}, {{3, 4, 5}}}, {FlattenAttrs{}, {{16, 2, 2}}}, {FlattenAttrs{}, {{6}}}};
}

}  // namespace

const OpEntry& flatten_op() {
  static const OpEntry entry = {.name = "flatten",
                                .traits = {.layout = OpTraits::Layout::any,
                                           .mixes_rows = false,
                                           .zero_rows = OpTraits::ZeroRows::kept,
                                           .independent = true},
                                .infer = infer,
                                .flops = flops,
                                .forward = forward,
                                .backward = backward,
                                .layer = {"flatten", false, {}, read_nothing<FlattenAttrs>},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
