#include "model/cuda/plan/conv_passes.h"

#include <fmt/format.h>

namespace lockstep::cuda {

std::string describe(ConvPass pass, const ConvShape& s) {
  static constexpr const char* names[] = {
      "forward",      "forward_relu",      "forward_bias",          "forward_bias_relu",
      "data",         "weights",           "weights_16_bits",       "forward_sums",
      "forward_norm", "forward_norm_relu", "forward_norm_add_relu", "data_norm"};
  return fmt::format("conv {} {}x{}x{}x{} {}x{}x{} stride {}x{} pad {}x{} groups {}",
                     names[static_cast<int>(pass)], s.rows, s.in_channels, s.in_h, s.in_w, s.out_channels,
                     s.kernel_h, s.kernel_w, s.stride_h, s.stride_w, s.pad_h, s.pad_w, s.groups);
}

bool is_trusted(ConvPass pass, Precision precision, bool half_sums) {
  return pass != ConvPass::forward_sums || precision != Precision::fp16 || half_sums;
}

std::vector<ConvPass> passes_of(const ConvForward& c) {
  const bool bias = c.bias != no_parameter;
  if (c.sums != nowhere) return {ConvPass::forward_sums, ConvPass::forward};
  if (bias && c.relu) return {ConvPass::forward_bias_relu, ConvPass::forward};
  if (bias) return {ConvPass::forward_bias, ConvPass::forward};
  if (c.relu) return {ConvPass::forward_relu, ConvPass::forward};
  return {ConvPass::forward};
}

std::vector<ConvPass> passes_of(const ConvNormForward& c) {
  std::vector<ConvPass> passes = passes_of(product_of(c));
  const ConvPass norm = c.residual != nowhere ? ConvPass::forward_norm_add_relu
                        : c.relu              ? ConvPass::forward_norm_relu
                                              : ConvPass::forward_norm;
  passes.insert(passes.begin(), norm);
  return passes;
}

std::vector<ConvPass> passes_of(const ConvBackwardData& c) {
  if (c.norm.sums == nowhere) return {ConvPass::data};
  return {ConvPass::data_norm, ConvPass::data};
}

std::vector<ConvPass> passes_of(const ConvBackwardWeights&, Precision precision) {
  if (bytes_of(precision) == sizeof(float)) return {ConvPass::weights};
  return {ConvPass::weights, ConvPass::weights_16_bits};
}

}  // namespace lockstep::cuda
