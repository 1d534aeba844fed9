#include "model/cuda/library/library_plans.h"

namespace lockstep::cuda {

int channel_rows(ConvPass pass) {
  switch (pass) {
    case ConvPass::forward_sums:
    case ConvPass::forward_norm:
    case ConvPass::forward_norm_relu:
    case ConvPass::forward_norm_add_relu:
      return 2;
    case ConvPass::data_norm:
      return 4 + NormInFront::results;
    default:
      return 0;
  }
}

PassBytes bytes_of(ConvPass pass, const ConvShape& s, Precision precision) {
  const std::size_t unit = bytes_of(precision);
  const std::size_t x = static_cast<std::size_t>(s.rows * s.in_channels * s.in_h * s.in_w) * unit;
  const std::size_t y = static_cast<std::size_t>(s.rows * s.out_channels * s.out_h * s.out_w) * unit;
  const auto weights = static_cast<std::size_t>(s.weights());
  if (pass == ConvPass::data) return {y, weights * unit, 0, x};
  if (pass == ConvPass::data_norm)
    return {y, weights * unit, 0, x, x, ChannelRows::bytes(s.in_channels, channel_rows(pass))};
  if (pass == ConvPass::weights) return {x, y, 0, weights * sizeof(float)};
  if (pass == ConvPass::weights_16_bits) return {x, y, 0, weights * unit};
  const bool bias = pass == ConvPass::forward_bias || pass == ConvPass::forward_bias_relu;
  return {x,
          weights * unit,
          bias ? static_cast<std::size_t>(s.out_channels) * unit : 0,
          y,
          pass == ConvPass::forward_norm_add_relu ? y : 0,
          ChannelRows::bytes(s.out_channels, channel_rows(pass))};
}

PassBytes bytes_of(DensePass pass, const DenseShape& s, Precision precision) {
  const std::size_t unit = bytes_of(precision);
  const std::size_t x = static_cast<std::size_t>(s.rows * s.in) * unit;
  const std::size_t y = static_cast<std::size_t>(s.rows * s.out) * unit;
  const auto weights = static_cast<std::size_t>(s.in * s.out);
  if (pass == DensePass::data) return {y, weights * unit, 0, x};
  if (pass == DensePass::data_gelu) return {y, weights * unit, 0, x, 0, 0, x};
  if (pass == DensePass::weights || pass == DensePass::weights_bias) {
    const std::size_t bias = pass == DensePass::weights ? 0 : static_cast<std::size_t>(s.out) * sizeof(float);
    return {x, y, bias, weights * sizeof(float)};
  }
  const std::size_t bias = has_bias(pass) ? static_cast<std::size_t>(s.out) * unit : 0;
  return {x, weights * unit, bias, y, 0, 0, has_aux(pass) ? y : 0};
}

}  // namespace lockstep::cuda
