#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/graph/op_entry.h"
#include "model/graph/op_support.h"

// What the ops that map every element by one function have in common. `Function` is made from the attributes
// and has
//   double value(double x) const;      the definition
//   double slope(double x) const;      its derivative
//   static constexpr std::int64_t flops;   of one element

namespace lockstep::ops {

template <class Function>
Shape infer_unary(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  require(inputs.size() == 1, "an activation takes one input");
  Function::check(attrs, layer);
  return inputs[0];
}

template <class Function>
std::int64_t unary_flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return saturating_mul(Function::flops, inputs[0].elements());
}

template <class Function>
void unary_forward(const OpNode& node, const Graph&, const ReferenceContext&,
                   const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
                   const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  const Function function(node.attrs);
  output = *inputs[0];
  for (double& y : output) y = function.value(y);
}

template <class Function>
void unary_backward(const OpNode& node, const Graph&, const ReferenceContext&,
                    const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
                    const Tensor64&, const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
                    const std::vector<Tensor64*>&) {
  if (diff_inputs[0] == nullptr) return;
  const Function function(node.attrs);
  for (std::size_t e = 0; e < diff_output.size(); ++e)
    (*diff_inputs[0])[e] += diff_output[e] * function.slope((*inputs[0])[e]);
}

/// The entry of such an op; `keeps_zero`: whether 0 becomes 0.
template <class Function>
OpEntry unary_entry(const char* name, bool keeps_zero, LayerRule layer,
                    std::vector<OpExample> (*examples)()) {
  OpEntry entry{.name = name};
  entry.traits.layout = OpTraits::Layout::follows;
  entry.traits.mixes_rows = false;
  entry.traits.zero_rows = keeps_zero ? OpTraits::ZeroRows::kept : OpTraits::ZeroRows::lost;
  entry.traits.independent = true;
  entry.traits.keeps_padding = keeps_zero;
  entry.length = same_length;
  entry.infer = infer_unary<Function>;
  entry.flops = unary_flops<Function>;
  entry.forward = unary_forward<Function>;
  entry.backward = unary_backward<Function>;
  entry.layer = std::move(layer);
  entry.examples = examples;
  return entry;
}

}  // namespace lockstep::ops
