#include "model/cuda/library_plans.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"

namespace lockstep::cuda {

PlanNames::PlanNames(const std::string& text) {
  for (const std::string_view line : split(text, '\n')) {
    if (line.empty()) continue;
    const std::size_t middle = line.find(" = ");
    require(middle != std::string_view::npos, "a line of a plan choice has no \" = \"");
    names_[std::string(line.substr(0, middle))] = std::string(line.substr(middle + 3));
  }
}

std::string PlanNames::text() const {
  std::string text;
  for (const auto& [what, plan] : names_) text += fmt::format("{} = {}\n", what, plan);
  return text;
}

const std::string& PlanNames::find(const std::string& what) const {
  static const std::string none;
  const auto found = names_.find(what);
  return found == names_.end() ? none : found->second;
}

std::string describe(ConvPass pass, const ConvShape& s) {
  static constexpr const char* names[] = {"forward", "forward_relu", "forward_bias",   "forward_bias_relu",
                                          "data",    "weights",      "weights_16_bits"};
  return fmt::format("conv {} {}x{}x{}x{} {}x{}x{} stride {}x{} pad {}x{} groups {}",
                     names[static_cast<int>(pass)], s.rows, s.in_channels, s.in_h, s.in_w, s.out_channels,
                     s.kernel_h, s.kernel_w, s.stride_h, s.stride_w, s.pad_h, s.pad_w, s.groups);
}

std::string describe(DensePass pass, const DenseShape& s) {
  static constexpr const char* names[] = {"forward",           "forward_relu", "forward_bias",
                                          "forward_bias_relu", "data",         "weights"};
  return fmt::format("dense {} {} rows {} to {}", names[static_cast<int>(pass)], s.rows, s.in, s.out);
}

PassBytes bytes_of(ConvPass pass, const ConvShape& s, Precision precision) {
  const std::size_t unit = bytes_of(precision);
  const std::size_t x = static_cast<std::size_t>(s.rows * s.in_channels * s.in_h * s.in_w) * unit;
  const std::size_t y = static_cast<std::size_t>(s.rows * s.out_channels * s.out_h * s.out_w) * unit;
  const auto weights = static_cast<std::size_t>(s.weights());
  if (pass == ConvPass::data) return {y, weights * unit, 0, x};
  if (pass == ConvPass::weights) return {x, y, 0, weights * sizeof(float)};
  if (pass == ConvPass::weights_16_bits) return {x, y, 0, weights * unit};
  const bool bias = pass == ConvPass::forward_bias || pass == ConvPass::forward_bias_relu;
  return {x, weights * unit, bias ? static_cast<std::size_t>(s.out_channels) * unit : 0, y};
}

PassBytes bytes_of(DensePass pass, const DenseShape& s, Precision precision) {
  const std::size_t unit = bytes_of(precision);
  const std::size_t x = static_cast<std::size_t>(s.rows * s.in) * unit;
  const std::size_t y = static_cast<std::size_t>(s.rows * s.out) * unit;
  const auto weights = static_cast<std::size_t>(s.in * s.out);
  if (pass == DensePass::data) return {y, weights * unit, 0, x};
  if (pass == DensePass::weights) return {x, y, 0, weights * sizeof(float)};
  const bool bias = pass == DensePass::forward_bias || pass == DensePass::forward_bias_relu;
  return {x, weights * unit, bias ? static_cast<std::size_t>(s.out) * unit : 0, y};
}

}  // namespace lockstep::cuda
