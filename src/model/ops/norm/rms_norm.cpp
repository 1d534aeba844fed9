#include "model/ops/norm/rms_norm.h"

#include "model/ops/norm/line_norm.h"

namespace lockstep::ops {

namespace {

OpParameters parameters(const OpAttrs&, const std::vector<Shape>& inputs, std::optional<InitKind> init) {
  const Shape places{inputs[0].dims().back()};
  OpParameters learned;
  learned.parameters.push_back({"weight", places, init.value_or(InitKind::ones), 1, 1});
  return learned;
}

OpAttrs read(const LayerArguments& a) {
  RmsNormAttrs attrs;
  attrs.epsilon = a.real(
      "eps", [](double v) { return v > 0 && v <= 1; }, "above 0 and at most 1", attrs.epsilon);
  return attrs;
}

std::vector<OpExample> examples() {
  return {{RmsNormAttrs{}, {{33}}},
          {RmsNormAttrs{1e-3}, {{5, 16}}},
          {RmsNormAttrs{}, {{3, 4, 7}}},
          {RmsNormAttrs{}, {{1}}}};
}

}  // namespace

const OpEntry& rms_norm_op() {
  static const OpEntry entry = {.name = "rmsnorm",
                                .traits = {.layout = OpTraits::Layout::plain,
                                           .mixes_rows = false,
                                           .zero_rows = OpTraits::ZeroRows::kept_without_bias,
                                           .independent = true},
                                .infer = infer_line_norm<RmsNormAttrs>,
                                .flops = line_norm_flops,
                                .forward = line_norm_forward<RmsNormAttrs>,
                                .backward = line_norm_backward<RmsNormAttrs>,
                                .parameters = parameters,
                                .length = same_length,
                                .layer = {"rmsnorm:eps=1e-5", false, {"eps"}, read},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
