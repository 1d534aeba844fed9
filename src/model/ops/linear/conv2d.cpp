#include "model/ops/linear/conv2d.h"

#include <tuple>

#include "core/counted.h"
#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

Window window_of(const Conv2dAttrs& a) {
  return Window{a.kernel_h, a.kernel_w, a.stride_h, a.stride_w, a.pad_h, a.pad_w};
}

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  const auto& a = attrs.as<Conv2dAttrs>();
  const Image in = one_image(inputs, "conv", layer);
  check_window(window_of(a), false, layer);
  if (a.out_channels < 1 || a.out_channels > largest_tensor) {
    refuse(layer, std::to_string(a.out_channels) + " output channels, but there must be between 1 and 2^40");
  }
  if (a.groups < 1 || in.c % a.groups != 0 || a.out_channels % a.groups != 0) {
    refuse(layer, std::to_string(a.groups) + " groups do not divide both its input " + inputs[0].text() +
                      " (" + counted(in.c, "channel") + ") and its " +
                      counted(a.out_channels, "output channel"));
  }
  checked(Shape{a.out_channels, in.c / a.groups, a.kernel_h, a.kernel_w}, layer, "its weight");
  return window_output(window_of(a), in, a.out_channels, layer);
}

std::int64_t flops(const OpAttrs& attrs, const std::vector<Shape>& inputs, const Shape& output) {
  const auto& a = attrs.as<Conv2dAttrs>();
  const std::int64_t taps = inputs[0][0] / a.groups * a.kernel_h * a.kernel_w;
  return saturating_mul(saturating_mul(2, taps), output.elements());
}

/// Calls fn(input element, weight element, output channel, output element) for every product of the
/// definition.
template <class Fn>
void for_each_product(const OpNode& node, const Graph& graph, std::int64_t rows, Fn fn) {
  const auto& a = node.attrs.as<Conv2dAttrs>();
  const Image in = image_of(graph.shape_of(node.inputs[0]));
  const Image out = image_of(graph.shape_of(node.output));
  const std::int64_t in_per_group = in.c / a.groups;
  const std::int64_t out_per_group = out.c / a.groups;
  for (std::int64_t n = 0; n < rows; ++n) {
    for (std::int64_t o = 0; o < out.c; ++o) {
      const std::int64_t first_input = o / out_per_group * in_per_group;
      for (std::int64_t y = 0; y < out.h; ++y) {
        for (std::int64_t x = 0; x < out.w; ++x) {
          const std::int64_t output = ((n * out.c + o) * out.h + y) * out.w + x;
          for (std::int64_t i = 0; i < in_per_group; ++i) {
            for_each_tap(window_of(a), in, y, x, [&](auto iy, auto ix, auto ky, auto kx) {
              const std::int64_t input = ((n * in.c + first_input + i) * in.h + iy) * in.w + ix;
              const std::int64_t weight = ((o * in_per_group + i) * a.kernel_h + ky) * a.kernel_w + kx;
              fn(at(input), at(weight), at(o), at(output));
            });
          }
        }
      }
    }
  }
}

void forward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
             const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>& parameters,
             const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  const Image out = image_of(graph.shape_of(node.output));
  output.assign(at(ctx.rows * out.c * out.h * out.w), 0.0);
  if (node.attrs.as<Conv2dAttrs>().bias) {
    for (std::size_t e = 0; e < output.size(); ++e)
      output[e] = (*parameters[1])[e / at(out.h * out.w) % at(out.c)];
  }
  const Tensor64& x = *inputs[0];
  const Tensor64& w = *parameters[0];
  for_each_product(node, graph, ctx.rows,
                   [&](auto i, auto k, std::size_t, auto o) { output[o] += x[i] * w[k]; });
}

void backward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
              const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>& parameters,
              const Tensor64&, const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>& diff_parameters) {
  const Tensor64& x = *inputs[0];
  const Tensor64& w = *parameters[0];
  Tensor64* dx = diff_inputs[0];
  Tensor64& dw = *diff_parameters[0];
  for_each_product(node, graph, ctx.rows, [&](auto i, auto k, std::size_t, auto o) {
    if (dx != nullptr) (*dx)[i] += diff_output[o] * w[k];
    dw[k] += diff_output[o] * x[i];
  });
  if (node.attrs.as<Conv2dAttrs>().bias) {
    const Image out = image_of(graph.shape_of(node.output));
    for (std::size_t e = 0; e < diff_output.size(); ++e) {
      (*diff_parameters[1])[e / at(out.h * out.w) % at(out.c)] += diff_output[e];
    }
  }
}

OpParameters parameters(const OpAttrs& attrs, const std::vector<Shape>& inputs,
                        std::optional<InitKind> init) {
  const auto& a = attrs.as<Conv2dAttrs>();
  const InitKind drawn = init.value_or(InitKind::torch_linear);
  const std::int64_t in_per_group = inputs[0][0] / a.groups;
  const std::int64_t window = a.kernel_h * a.kernel_w;
  // As torch.nn.init counts: fan_out takes all output channels, also of a grouped convolution.
  const std::int64_t fan_in = in_per_group * window;
  const std::int64_t fan_out = saturating_mul(a.out_channels, window);
  OpParameters learned;
  learned.parameters.push_back(
      {"weight", Shape{a.out_channels, in_per_group, a.kernel_h, a.kernel_w}, drawn, fan_in, fan_out});
  if (a.bias)
    learned.parameters.push_back({"bias", Shape{a.out_channels}, bias_init(drawn), fan_in, fan_out});
  return learned;
}

OpAttrs read(const LayerArguments& a) {
  const auto n = a.numbers(1, 2, 3, "conv:OUTxK or conv:OUTxKHxKW");
  Conv2dAttrs attrs;
  attrs.out_channels = n[0];
  attrs.kernel_h = n[1];
  attrs.kernel_w = n.back();
  std::tie(attrs.stride_h, attrs.stride_w) = a.pair("stride", 1, {1, 1});
  std::tie(attrs.pad_h, attrs.pad_w) = a.pair("pad", 0, {0, 0});
  attrs.groups = a.number("groups", 1, 1);
  attrs.bias = a.flag("bias", true);
  return attrs;
}

std::vector<OpExample> examples() {
  return {{Conv2dAttrs{4, 3, 3, 1, 1, 1, 1, 1, true}, {{3, 5, 6}}},
          {Conv2dAttrs{16, 1, 1, 1, 1, 0, 0, 1, false}, {{16, 4, 4}}},
          {Conv2dAttrs{6, 3, 2, 2, 1, 0, 1, 2, true}, {{4, 7, 5}}},
          {Conv2dAttrs{16, 3, 3, 1, 1, 1, 1, 16, false}, {{16, 6, 6}}}};
}

}  // namespace

const OpEntry& conv2d_op() {
  static const OpEntry entry = {
      .name = "conv",
      .traits = {.layout = OpTraits::Layout::chooses,
                 .mixes_rows = false,
                 .zero_rows = OpTraits::ZeroRows::kept_without_bias,
                 .takes_bf16 = true},
      .infer = infer,
      .flops = flops,
      .forward = forward,
      .backward = backward,
      .parameters = parameters,
      .layer = {"conv:32x3,stride=2,pad=1,groups=1,bias=0", true, {"stride", "pad", "groups", "bias"}, read},
      .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
