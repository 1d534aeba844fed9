#include "model/ops/loss/cross_entropy.h"

#include <cmath>

#include "model/ops/loss/scores.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs&, const std::vector<Shape>& inputs, const std::string& layer) {
  return infer_scores(inputs, layer, "cross-entropy", "logits");
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return saturating_mul(5, inputs[0].elements());
}

/// The gradient is softmax(x) - onehot(label).
LossSums row(const OpAttrs&, std::size_t width, const double* x, const float*, std::int32_t label,
             double* diff) {
  const auto of_label = static_cast<std::size_t>(label);
  const std::size_t best = first_largest(x, width);
  double sum = 0;
  for (std::size_t c = 0; c < width; ++c) sum += std::exp(x[c] - x[best]);
  for (std::size_t c = 0; c < width; ++c) diff[c] += std::exp(x[c] - x[best]) / sum;
  diff[of_label] -= 1;
  return {std::log(sum) - (x[of_label] - x[best]), best == of_label ? 1.0 : 0.0};
}

std::vector<OpExample> examples() {
  return {{CrossEntropyAttrs{}, {{7}}}, {CrossEntropyAttrs{}, {{2}}}, {CrossEntropyAttrs{}, {{300}}}};
}

}  // namespace

const OpEntry& cross_entropy_op() {
  static const LossRule rule = {LossRule::Answers::labels, true, row};
  static const OpEntry entry = {.name = "cross_entropy",
                                .traits = {.mixes_rows = false},
                                .infer = infer,
                                .flops = flops,
                                .loss = &rule,
                                .default_attrs = [] { return OpAttrs(CrossEntropyAttrs{}); },
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
