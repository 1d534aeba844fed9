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
  for (const auto& [what, plan] : names_) text += what + " = " + plan + "\n";
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

}  // namespace lockstep::cuda
