#include "model/ops/loss/hinge.h"

#include "model/ops/loss/scores.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs&, const std::vector<Shape>& inputs, const std::string& layer) {
  const Shape none = infer_scores(inputs, layer, "hinge", "scores");
  if (inputs[0][0] < 2) throw ConfigError(layer + ": hinge needs at least two classes");
  return none;
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return inputs[0].elements();
}

LossSums row(const OpAttrs&, const Shape& input, const double* x, const float*, const std::int32_t* label,
             double* diff) {
  const auto width = at(input.elements());
  const auto of_label = static_cast<std::size_t>(*label);
  std::size_t rival = of_label == 0 ? 1 : 0;
  for (std::size_t c = rival + 1; c < width; ++c)
    if (c != of_label && x[c] > x[rival]) rival = c;
  LossSums sums{0, 0, 1, 1};
  sums.correct = first_largest(x, width) == of_label ? 1.0 : 0.0;
  const double margin = 1.0 + x[rival] - x[of_label];
  if (margin > 0) {
    sums.loss = margin;
    diff[rival] += 1;
    diff[of_label] -= 1;
  }
  return sums;
}

std::vector<OpExample> examples() {
  return {{HingeAttrs{}, {{7}}}, {HingeAttrs{}, {{2}}}};
}

}  // namespace

const OpEntry& hinge_op() {
  static const LossRule rule = {
      .answers = LossRule::Answers::labels, .answer_shape = labels_of_scores, .row = row};
  static const OpEntry entry = {.name = "hinge",
                                .traits = {.mixes_rows = false},
                                .infer = infer,
                                .flops = flops,
                                .loss = &rule,
                                .default_attrs = [] { return OpAttrs(HingeAttrs{}); },
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
