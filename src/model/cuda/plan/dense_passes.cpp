#include "model/cuda/plan/dense_passes.h"

#include <fmt/format.h>

namespace lockstep::cuda {

std::string describe(DensePass pass, const DenseShape& s) {
  static constexpr const char* names[] = {
      "forward",      "forward_relu",      "forward_bias",     "forward_bias_relu",
      "forward_gelu", "forward_bias_gelu", "forward_gelu_aux", "forward_bias_gelu_aux",
      "data",         "data_gelu",         "weights",          "weights_bias"};
  return fmt::format("dense {} {} rows {} to {}", names[static_cast<int>(pass)], s.rows, s.in, s.out);
}

bool has_bias(DensePass pass) {
  return pass == DensePass::forward_bias || pass == DensePass::forward_bias_relu ||
         pass == DensePass::forward_bias_gelu || pass == DensePass::forward_bias_gelu_aux;
}
bool has_gelu(DensePass pass) {
  return pass == DensePass::forward_gelu || pass == DensePass::forward_bias_gelu ||
         pass == DensePass::forward_gelu_aux || pass == DensePass::forward_bias_gelu_aux;
}
bool has_aux(DensePass pass) {
  return pass == DensePass::forward_gelu_aux || pass == DensePass::forward_bias_gelu_aux ||
         pass == DensePass::data_gelu;
}

std::vector<DensePass> passes_of(const DenseForward& c) {
  const bool bias = c.bias != no_parameter;
  std::vector<DensePass> passes;
  if (c.gelu != nowhere && c.gelu == c.y)
    passes.push_back(bias ? DensePass::forward_bias_gelu : DensePass::forward_gelu);
  else if (c.gelu != nowhere)
    passes.push_back(bias ? DensePass::forward_bias_gelu_aux : DensePass::forward_gelu_aux);
  if (bias)
    passes.push_back(c.relu ? DensePass::forward_bias_relu : DensePass::forward_bias);
  else if (c.relu)
    passes.push_back(DensePass::forward_relu);
  passes.push_back(DensePass::forward);
  return passes;
}

std::vector<DensePass> passes_of(const DenseBackwardData& c) {
  if (c.gelu == nowhere) return {DensePass::data};
  return {DensePass::data_gelu, DensePass::data};
}

std::vector<DensePass> passes_of(const DenseBackwardWeights& c) {
  if (c.bias == no_parameter) return {DensePass::weights};
  return {DensePass::weights_bias, DensePass::weights};
}

}  // namespace lockstep::cuda
