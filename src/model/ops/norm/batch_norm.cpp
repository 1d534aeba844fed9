#include "model/ops/norm/batch_norm.h"

#include <cmath>

#include "core/error.h"
#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  const auto& a = attrs.as<BatchNormAttrs>();
  require(inputs.size() == 1, "batch norm takes one input");
  if (inputs[0].rank() != 1 && inputs[0].rank() != 3) {
    refuse(layer, "bn takes (features) or (channels, height, width), but its input is " + inputs[0].text());
  }
  // Written so that NaN fails as well.
  if (!(a.epsilon > 0 && a.epsilon <= 1)) refuse(layer, "epsilon must be above 0 and at most 1");
  if (!(a.momentum >= 0 && a.momentum <= 1)) refuse(layer, "momentum must be between 0 and 1");
  return inputs[0];
}

/// A scale and a shift per element.
std::int64_t flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return saturating_mul(2, inputs[0].elements());
}

struct Extents {
  std::int64_t channels, area;
};
Extents extents_of(const OpNode& node, const Graph& graph) {
  const Shape& shape = graph.shape_of(node.inputs[0]);
  return {shape[0], shape.elements() / shape[0]};
}

/// Calls fn(element) for the elements of channel c in rows [0, rows).
template <class Fn>
void for_each_of_channel(Extents x, std::int64_t c, std::int64_t rows, Fn fn) {
  for (std::int64_t n = 0; n < rows; ++n) {
    for (std::int64_t e = 0; e < x.area; ++e) fn(at((n * x.channels + c) * x.area + e));
  }
}

struct Moments {
  double mean = 0, variance = 0;  // biased
};
Moments moments_of(Extents extents, std::int64_t c, std::int64_t valid, const Tensor64& x) {
  const auto count = static_cast<double>(valid * extents.area);
  Moments m;
  for_each_of_channel(extents, c, valid, [&](std::size_t i) { m.mean += x[i]; });
  m.mean /= count;
  for_each_of_channel(extents, c, valid,
                      [&](std::size_t i) { m.variance += (x[i] - m.mean) * (x[i] - m.mean); });
  m.variance /= count;
  return m;
}

void forward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
             const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>& parameters,
             const std::vector<const Tensor64*>& statistics, Tensor64& output,
             std::vector<Tensor64>& batch_statistics) {
  const Extents extents = extents_of(node, graph);
  const double epsilon = node.attrs.as<BatchNormAttrs>().epsilon;
  const Tensor64& x = *inputs[0];
  output.assign(at(ctx.rows * extents.channels * extents.area), 0.0);
  if (ctx.training) batch_statistics.assign(2, Tensor64(at(extents.channels), 0.0));
  if (ctx.training && ctx.valid == 0) return;
  for (std::int64_t c = 0; c < extents.channels; ++c) {
    Moments m;
    if (ctx.training) {
      m = moments_of(extents, c, ctx.valid, x);
      const auto count = static_cast<double>(ctx.valid * extents.area);
      batch_statistics[0][at(c)] = m.mean;
      batch_statistics[1][at(c)] = count > 1 ? m.variance * count / (count - 1) : 0.0;
    } else {
      m = {(*statistics[0])[at(c)], (*statistics[1])[at(c)]};
    }
    const double scale = (*parameters[0])[at(c)] / std::sqrt(m.variance + epsilon);
    const double bias = (*parameters[1])[at(c)];
    for_each_of_channel(extents, c, ctx.rows,
                        [&](std::size_t i) { output[i] = scale * (x[i] - m.mean) + bias; });
  }
}

void backward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
              const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>& parameters,
              const Tensor64&, const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>& diff_parameters) {
  require(ctx.training, "batch norm has a gradient only in training");
  if (ctx.valid == 0) return;
  const Extents extents = extents_of(node, graph);
  const double epsilon = node.attrs.as<BatchNormAttrs>().epsilon;
  const Tensor64& x = *inputs[0];
  const auto count = static_cast<double>(ctx.valid * extents.area);
  for (std::int64_t c = 0; c < extents.channels; ++c) {
    const Moments m = moments_of(extents, c, ctx.valid, x);
    const double inverse = 1.0 / std::sqrt(m.variance + epsilon);
    double sum = 0;             // of dL/dy
    double sum_normalised = 0;  // of dL/dy * x_hat
    for_each_of_channel(extents, c, ctx.valid, [&](std::size_t i) {
      sum += diff_output[i];
      sum_normalised += diff_output[i] * (x[i] - m.mean) * inverse;
    });
    (*diff_parameters[0])[at(c)] += sum_normalised;
    (*diff_parameters[1])[at(c)] += sum;
    if (diff_inputs[0] == nullptr) continue;
    const double scale = (*parameters[0])[at(c)] * inverse;
    // The three terms of the paper's dL/dx, with dL/dmean and dL/dvariance put in.
    for_each_of_channel(extents, c, ctx.valid, [&](std::size_t i) {
      const double normalised = (x[i] - m.mean) * inverse;
      (*diff_inputs[0])[i] += scale * (diff_output[i] - sum / count - normalised * sum_normalised / count);
    });
  }
}

OpParameters parameters(const OpAttrs& attrs, const std::vector<Shape>& inputs,
                        std::optional<InitKind> init) {
  const Shape channels{inputs[0][0]};
  const double momentum = attrs.as<BatchNormAttrs>().momentum;
  return {
      {{"weight", channels, init.value_or(InitKind::ones), 1, 1}, {"bias", channels, InitKind::zeros, 1, 1}},
      {{"running_mean", channels, 0.0f, momentum}, {"running_var", channels, 1.0f, momentum}}};
}

OpAttrs read(const LayerArguments& a) {
  BatchNormAttrs attrs;
  attrs.epsilon = a.real(
      "eps", [](double v) { return v > 0 && v <= 1; }, "above 0 and at most 1", attrs.epsilon);
  attrs.momentum = a.real(
      "momentum", [](double v) { return v >= 0 && v <= 1; }, "between 0 and 1", attrs.momentum);
  return attrs;
}

std::vector<OpExample> examples() {
  return {{BatchNormAttrs{}, {{7}}}, {BatchNormAttrs{1e-3, 0.01}, {{16, 4, 3}}}};
}

}  // namespace

const OpEntry& batch_norm_op() {
  static const OpEntry entry = {.name = "bn",
                                .traits = {.layout = OpTraits::Layout::follows,
                                           .mixes_rows = true,
                                           .zero_rows = OpTraits::ZeroRows::made,
                                           .independent = true},
                                .infer = infer,
                                .flops = flops,
                                .forward = forward,
                                .backward = backward,
                                .parameters = parameters,
                                .layer = {"bn:eps=1e-5,momentum=0.1", false, {"eps", "momentum"}, read},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
