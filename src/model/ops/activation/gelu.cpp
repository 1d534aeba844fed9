#include "model/ops/activation/gelu.h"

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

const double scale = std::sqrt(2.0 * std::numbers::inv_pi);
constexpr double cubic = 0.044715;

/// 1 / (1 + e^(-2 u)), which is (1 + tanh(u)) / 2 without its cancellation at negative u.
double share(double x) {
  return 1.0 / (1.0 + std::exp(-2.0 * scale * (x + cubic * x * x * x)));
}

Shape infer(const OpAttrs&, const std::vector<Shape>& inputs, const std::string&) {
  require(inputs.size() == 1, "gelu takes one input");
  return inputs[0];
}

/// Two products for the square and the cubic term, an addition, two products for x and the scale, a tanh, an
/// addition and two products per element.
std::int64_t flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return saturating_mul(9, inputs[0].elements());
}

void forward(const OpNode&, const Graph&, const ReferenceContext&, const std::vector<const Tensor64*>& inputs,
             const std::vector<const Tensor64*>&, const std::vector<const Tensor64*>&, Tensor64& output,
             std::vector<Tensor64>&) {
  output = *inputs[0];
  for (double& y : output) y *= share(y);
}

void backward(const OpNode&, const Graph&, const ReferenceContext&,
              const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
              const Tensor64&, const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>&) {
  if (diff_inputs[0] == nullptr) return;
  for (std::size_t e = 0; e < diff_output.size(); ++e) {
    const double x = (*inputs[0])[e];
    // s' = s(x) s(-x) 2 u'; where that product is 0, so is the limit of x s', whatever the other factors are.
    const double bend = share(x) * share(-x);
    const double slope = share(x) + (bend == 0 ? 0 : x * bend * 2.0 * scale * (1.0 + 3.0 * cubic * x * x));
    (*diff_inputs[0])[e] += diff_output[e] * slope;
  }
}

std::vector<OpExample> examples() {
  return {{GeluAttrs{}, {{33}}}, {GeluAttrs{}, {{16, 3, 5}}}};
}

}  // namespace

const OpEntry& gelu_op() {
  static const OpEntry entry = {.name = "gelu",
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
                                .layer = {"gelu", false, {}, read_nothing<GeluAttrs>},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
