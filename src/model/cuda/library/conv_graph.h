#pragma once

// What cuDNN is asked for, as graphs of its frontend. Only conv_library.cpp includes this: the frontend costs
// a minute to compile.

#include <cudnn_frontend.h>
#include <memory>
#include <vector>

#include "model/cuda/plan/conv_passes.h"
#include "model/cuda/plan/plan.h"

namespace lockstep::cuda {

namespace fe = cudnn_frontend;

enum Tensor : std::int64_t {
  first_input = 1,
  second_input = 2,
  bias_input = 3,
  result = 4,
  scale_input = 5,
  shift_input = 6,
  residual_input = 7,
  sum_result = 8,
  squares_result = 9,
  norm_input = 10,
  mean_input = 11,
  inverse_input = 12,
  gamma_input = 13,
  beta_input = 14,
  norm_results = 15  // and as many as NormInFront has behind it
};

inline std::vector<std::int64_t> channels_last(std::int64_t c, std::int64_t h, std::int64_t w) {
  return {c * h * w, 1, w * c, c};
}

inline std::shared_ptr<fe::graph::Tensor_attributes> tensor(fe::graph::Graph& graph, Tensor uid,
                                                            const char* name, std::int64_t n, std::int64_t c,
                                                            std::int64_t h, std::int64_t w) {
  return graph.tensor(fe::graph::Tensor_attributes()
                          .set_name(name)
                          .set_uid(uid)
                          .set_dim({n, c, h, w})
                          .set_stride(channels_last(c, h, w)));
}

inline void make_result(const std::shared_ptr<fe::graph::Tensor_attributes>& t, std::int64_t n,
                        std::int64_t c, std::int64_t h, std::int64_t w, fe::DataType_t type) {
  t->set_uid(result)
      .set_output(true)
      .set_dim({n, c, h, w})
      .set_stride(channels_last(c, h, w))
      .set_data_type(type);
}

inline void make_channel_result(const std::shared_ptr<fe::graph::Tensor_attributes>& t, std::int64_t uid,
                                std::int64_t channels) {
  t->set_uid(uid)
      .set_output(true)
      .set_dim({1, channels, 1, 1})
      .set_stride(channels_last(channels, 1, 1))
      .set_data_type(fe::DataType_t::FLOAT);
}

inline bool has_bias(ConvPass pass) {
  return pass == ConvPass::forward_bias || pass == ConvPass::forward_bias_relu;
}
inline bool has_relu(ConvPass pass) {
  return pass == ConvPass::forward_relu || pass == ConvPass::forward_bias_relu ||
         pass == ConvPass::forward_norm_relu || pass == ConvPass::forward_norm_add_relu;
}
inline bool has_norm(ConvPass pass) {
  return pass == ConvPass::forward_norm || pass == ConvPass::forward_norm_relu ||
         pass == ConvPass::forward_norm_add_relu;
}
inline bool has_residual(ConvPass pass) {
  return pass == ConvPass::forward_norm_add_relu;
}

/// cuDNN's pattern DgradDreluBNBwdWeight: the norm is computed again for the sign of its result.
inline void mask_and_sum(fe::graph::Graph& graph, const std::shared_ptr<fe::graph::Tensor_attributes>& dx,
                         const ConvShape& s, fe::DataType_t io) {
  using Pointwise = fe::graph::Pointwise_attributes;
  using Mode = fe::PointwiseMode_t;
  dx->set_dim({s.rows, s.in_channels, s.in_h, s.in_w})
      .set_stride(channels_last(s.in_channels, s.in_h, s.in_w))
      .set_data_type(fe::DataType_t::FLOAT);
  const auto per_channel = [&](Tensor uid, const char* name) {
    const auto t = tensor(graph, uid, name, 1, s.in_channels, 1, 1);
    t->set_data_type(fe::DataType_t::FLOAT);
    return t;
  };
  const auto x = tensor(graph, norm_input, "norm", s.rows, s.in_channels, s.in_h, s.in_w);
  const auto mean = per_channel(mean_input, "mean"), inverse = per_channel(inverse_input, "inverse");
  const auto gamma = per_channel(gamma_input, "gamma"), beta = per_channel(beta_input, "beta");
  auto y = graph.pointwise(x, mean, Pointwise().set_mode(Mode::SUB));
  y = graph.pointwise(y, inverse, Pointwise().set_mode(Mode::MUL));
  y = graph.pointwise(y, gamma, Pointwise().set_mode(Mode::MUL));
  y = graph.pointwise(y, beta, Pointwise().set_mode(Mode::ADD));
  const auto masked = graph.pointwise(dx, y, Pointwise().set_mode(Mode::RELU_BWD));
  make_result(masked, s.rows, s.in_channels, s.in_h, s.in_w, io);
  const auto results = graph.dbn_weight(masked, x, mean, inverse, gamma, fe::graph::DBN_weight_attributes());
  static_assert(std::tuple_size_v<decltype(results)> == NormInFront::results);
  for (int i = 0; i < NormInFront::results; ++i)
    make_channel_result(results[static_cast<std::size_t>(i)], norm_results + i, s.in_channels);
}

/// The graph of a pass, channels-last; `io`: the format of activations. Tensors go by the numbers of Tensor.
inline std::shared_ptr<fe::graph::Graph> describe_graph(ConvPass pass, const ConvShape& s,
                                                        fe::DataType_t io) {
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(io)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const std::int64_t in_group = s.in_channels / s.groups;
  const auto with_window = [&](auto attributes) {
    attributes.set_padding({s.pad_h, s.pad_w}).set_stride({s.stride_h, s.stride_w}).set_dilation({1, 1});
    return attributes;
  };
  if (pass == ConvPass::data || pass == ConvPass::data_norm) {
    const auto dy = tensor(*graph, first_input, "dy", s.rows, s.out_channels, s.out_h, s.out_w);
    const auto w = tensor(*graph, second_input, "w", s.out_channels, in_group, s.kernel_h, s.kernel_w);
    const auto dx = graph->conv_dgrad(dy, w, with_window(fe::graph::Conv_dgrad_attributes()));
    if (pass == ConvPass::data_norm) {
      mask_and_sum(*graph, dx, s, io);
      return graph;
    }
    make_result(dx, s.rows, s.in_channels, s.in_h, s.in_w, io);
    return graph;
  }
  const auto x = tensor(*graph, first_input, "x", s.rows, s.in_channels, s.in_h, s.in_w);
  if (pass == ConvPass::weights || pass == ConvPass::weights_16_bits) {
    const auto dy = tensor(*graph, second_input, "dy", s.rows, s.out_channels, s.out_h, s.out_w);
    const auto dw = graph->conv_wgrad(dy, x, with_window(fe::graph::Conv_wgrad_attributes()));
    make_result(dw, s.out_channels, in_group, s.kernel_h, s.kernel_w,
                pass == ConvPass::weights ? fe::DataType_t::FLOAT : io);
    return graph;
  }
  const auto w = tensor(*graph, second_input, "w", s.out_channels, in_group, s.kernel_h, s.kernel_w);
  auto y = graph->conv_fprop(x, w, with_window(fe::graph::Conv_fprop_attributes()));
  if (pass == ConvPass::forward_sums) {
    make_result(y, s.rows, s.out_channels, s.out_h, s.out_w, io);
    const auto sums = graph->genstats(y, fe::graph::Genstats_attributes());
    make_channel_result(sums[0], sum_result, s.out_channels);
    make_channel_result(sums[1], squares_result, s.out_channels);
    return graph;
  }
  const auto then = [&](auto make) {
    y->set_data_type(fe::DataType_t::FLOAT);
    y = make();
  };
  const auto with = [&](fe::PointwiseMode_t mode, const std::shared_ptr<fe::graph::Tensor_attributes>& b) {
    then([&] { return graph->pointwise(y, b, fe::graph::Pointwise_attributes().set_mode(mode)); });
  };
  if (has_bias(pass))
    with(fe::PointwiseMode_t::ADD, tensor(*graph, bias_input, "bias", 1, s.out_channels, 1, 1));
  if (has_norm(pass)) {
    const auto scale = tensor(*graph, scale_input, "scale", 1, s.out_channels, 1, 1);
    const auto shift = tensor(*graph, shift_input, "shift", 1, s.out_channels, 1, 1);
    scale->set_data_type(fe::DataType_t::FLOAT);
    shift->set_data_type(fe::DataType_t::FLOAT);
    with(fe::PointwiseMode_t::MUL, scale);
    with(fe::PointwiseMode_t::ADD, shift);
  }
  if (has_residual(pass))
    with(fe::PointwiseMode_t::ADD,
         tensor(*graph, residual_input, "residual", s.rows, s.out_channels, s.out_h, s.out_w));
  if (has_relu(pass))
    then([&] {
      return graph->pointwise(y, fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::RELU_FWD));
    });
  make_result(y, s.rows, s.out_channels, s.out_h, s.out_w, io);
  return graph;
}

}  // namespace lockstep::cuda
