#include "model/ops/activation/leaky_relu.h"

#include "model/ops/activation/unary.h"

namespace lockstep::ops {

namespace {

struct Definition : LeakyReluFunction {
  explicit Definition(const OpAttrs& attrs) : LeakyReluFunction(attrs) {}
  static constexpr std::int64_t flops = 2;
  static void check(const OpAttrs& attrs, const std::string& layer) {
    // Written so that NaN fails as well.
    if (!(std::abs(attrs.as<LeakyReluAttrs>().slope) <= 1e6))
      refuse(layer, "the slope must be a number of at most 1e6 in size");
  }
};

OpAttrs read(const LayerArguments& a) {
  return LeakyReluAttrs{a.real(
      "slope", [](double v) { return v >= -1e6 && v <= 1e6; }, "between -1e6 and 1e6", 0.01)};
}

std::vector<OpExample> examples() {
  return {{LeakyReluAttrs{}, {{33}}}, {LeakyReluAttrs{0.2}, {{16, 3, 5}}}, {LeakyReluAttrs{-0.5}, {{4, 7}}}};
}

}  // namespace

const OpEntry& leaky_relu_op() {
  static const OpEntry entry =
      unary_entry<Definition>("leakyrelu", true, {"leakyrelu:slope=0.01", false, {"slope"}, read}, examples);
  return entry;
}

}  // namespace lockstep::ops
