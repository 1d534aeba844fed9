#include "model/ops/loss/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "model/ops/loss/scores.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  const auto& a = attrs.as<CrossEntropyAttrs>();
  require(inputs.size() == 1, "a loss takes one value");
  if (inputs[0].rank() < 1 || inputs[0].rank() > 2)
    throw ConfigError(
        layer +
        ": cross-entropy takes logits of shape (classes) or (positions, classes), but the output is " +
        inputs[0].text() + "; end the model with flatten and dense");
  if (!(a.smoothing >= 0 && a.smoothing < 1))
    throw ConfigError(layer + ": label smoothing must be at least 0 and below 1");
  const auto classes = inputs[0].dims().back();
  if (!a.class_weights.empty() && static_cast<std::int64_t>(a.class_weights.size()) != classes)
    throw ConfigError(layer + ": there are " + std::to_string(a.class_weights.size()) +
                      " class weights, but " + std::to_string(classes) + " classes");
  for (const float w : a.class_weights)
    if (!(w >= 0) || std::isinf(w))
      throw ConfigError(layer + ": a class weight is not a number of at least 0");
  return Shape{};
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return saturating_mul(5, inputs[0].elements());
}

double weight_of(const CrossEntropyAttrs& a, std::size_t c) {
  return a.class_weights.empty() ? 1.0 : static_cast<double>(a.class_weights[c]);
}

/// Without smoothing and weights the gradient is softmax(x) - onehot(label).
LossSums vector_sums(const CrossEntropyAttrs& a, std::size_t width, const double* x, std::int32_t label,
                     double* diff) {
  if (label == CrossEntropyAttrs::ignored) return {};
  const auto of_label = static_cast<std::size_t>(label);
  const std::size_t best = first_largest(x, width);
  double sum = 0, all_weights = 0, of_all = 0;
  for (std::size_t c = 0; c < width; ++c) sum += std::exp(x[c] - x[best]);
  const auto minus_log = [&](std::size_t c) { return std::log(sum) - (x[c] - x[best]); };
  for (std::size_t c = 0; c < width; ++c) {
    all_weights += weight_of(a, c);
    of_all += weight_of(a, c) * minus_log(c);
  }
  const double share = a.smoothing / static_cast<double>(width);
  const double own = (1 - a.smoothing) * weight_of(a, of_label);
  for (std::size_t c = 0; c < width; ++c)
    diff[c] += (own + share * all_weights) * std::exp(x[c] - x[best]) / sum - share * weight_of(a, c);
  diff[of_label] -= own;
  return {own * minus_log(of_label) + share * of_all, best == of_label ? 1.0 : 0.0, weight_of(a, of_label),
          1};
}

LossSums row(const OpAttrs& attrs, const Shape& input, const double* x, const float*,
             const std::int32_t* labels, double* diff) {
  const std::size_t width = at(input.dims().back()), vectors = at(input.elements()) / width;
  LossSums sums;
  for (std::size_t v = 0; v < vectors; ++v) {
    const LossSums one =
        vector_sums(attrs.as<CrossEntropyAttrs>(), width, x + v * width, labels[v], diff + v * width);
    sums.loss += one.loss;
    sums.correct += one.correct;
    sums.weight += one.weight;
    sums.counted += one.counted;
  }
  return sums;
}

double weight(const OpAttrs& attrs, const Shape& input, const std::int32_t* labels) {
  const std::size_t vectors = at(input.elements() / input.dims().back());
  double sum = 0;
  for (std::size_t v = 0; v < vectors; ++v)
    if (labels[v] != CrossEntropyAttrs::ignored)
      sum += weight_of(attrs.as<CrossEntropyAttrs>(), static_cast<std::size_t>(labels[v]));
  return sum;
}

bool weight_varies(const OpAttrs& attrs, const Shape& input) {
  return input.rank() > 1 || !attrs.as<CrossEntropyAttrs>().class_weights.empty();
}

std::vector<OpExample> examples() {
  return {{CrossEntropyAttrs{}, {{7}}},        {CrossEntropyAttrs{}, {{2}}},
          {CrossEntropyAttrs{}, {{300}}},      {CrossEntropyAttrs{}, {{6, 5}}},
          {CrossEntropyAttrs{0.1, {}}, {{9}}}, {CrossEntropyAttrs{0.2, {0.5f, 2, 1}}, {{4, 3}}}};
}

}  // namespace

const OpEntry& cross_entropy_op() {
  static const LossRule rule = {.answers = LossRule::Answers::labels,
                                .options = {"label_smoothing", "class_weights"},
                                .takes_softmax = true,
                                .answer_shape = labels_of_scores,
                                .pad = CrossEntropyAttrs::ignored,
                                .row = row,
                                .weight = weight,
                                .weight_varies = weight_varies};
  static const OpEntry entry = {.name = "cross_entropy",
                                .traits = {.mixes_rows = false},
                                .infer = infer,
                                .flops = flops,
                                .loss = &rule,
                                .default_attrs = [] { return OpAttrs(CrossEntropyAttrs{}); },
                                .attrs_with =
                                    [](const LossOptions& o) {
                                      return OpAttrs(CrossEntropyAttrs{o.label_smoothing, o.class_weights});
                                    },
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
