#include "model/ops/norm/layer_norm.h"

#include "model/ops/norm/line_norm.h"

namespace lockstep::ops {

namespace {

OpParameters parameters(const OpAttrs& attrs, const std::vector<Shape>& inputs,
                        std::optional<InitKind> init) {
  const Shape places{inputs[0].dims().back()};
  OpParameters learned;
  learned.parameters.push_back({"weight", places, init.value_or(InitKind::ones), 1, 1});
  if (attrs.as<LayerNormAttrs>().bias) learned.parameters.push_back({"bias", places, InitKind::zeros, 1, 1});
  return learned;
}

OpAttrs read(const LayerArguments& a) {
  LayerNormAttrs attrs;
  attrs.epsilon = a.real(
      "eps", [](double v) { return v > 0 && v <= 1; }, "above 0 and at most 1", attrs.epsilon);
  attrs.bias = a.flag("bias", true);
  return attrs;
}

std::vector<OpExample> examples() {
  return {{LayerNormAttrs{}, {{33}}},
          {LayerNormAttrs{1e-3, false}, {{5, 16}}},
          {LayerNormAttrs{}, {{3, 4, 7}}},
          {LayerNormAttrs{}, {{1}}}};
}

}  // namespace

const OpEntry& layer_norm_op() {
  static const OpEntry entry = {.name = "layernorm",
                                .traits = {.layout = OpTraits::Layout::plain,
                                           .mixes_rows = false,
                                           .zero_rows = OpTraits::ZeroRows::kept_without_bias,
                                           .independent = true},
                                .infer = infer_line_norm<LayerNormAttrs>,
                                .flops = line_norm_flops,
                                .forward = line_norm_forward<LayerNormAttrs>,
                                .backward = line_norm_backward<LayerNormAttrs>,
                                .parameters = parameters,
                                .length = same_length,
                                .layer = {"layernorm:eps=1e-5", false, {"eps", "bias"}, read},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
