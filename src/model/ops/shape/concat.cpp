#include "model/ops/shape/concat.h"

#include "core/error.h"
#include "model/ops/shape/moves.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  require(!inputs.empty(), "concat takes inputs");
  if (inputs.size() < 2 || inputs.size() > 4)
    refuse(layer, "concat takes two to four values, not " + std::to_string(inputs.size()));
  const std::int64_t axis = attrs.as<ConcatAttrs>().axis;
  check_axis(axis, inputs[0], layer);
  std::vector<std::int64_t> dims(inputs[0].dims().begin(), inputs[0].dims().end());
  for (std::size_t k = 1; k < inputs.size(); ++k) {
    bool fits = inputs[k].rank() == inputs[0].rank();
    for (std::size_t d = 0; fits && d < dims.size(); ++d)
      fits = d == at(axis) || inputs[k][d] == inputs[0][d];
    if (!fits)
      refuse(layer, "its inputs " + inputs[0].text() + " and " + inputs[k].text() +
                        " differ in more than axis " + std::to_string(axis));
    dims[at(axis)] += inputs[k][at(axis)];
  }
  return checked(Shape(dims), layer, "its output");
}

std::vector<OpExample> examples() {
  return {{ConcatAttrs{0}, {{5}, {5}}},
          {ConcatAttrs{1}, {{3, 4}, {3, 4}, {3, 4}}},
          {ConcatAttrs{0}, {{2, 3, 4}, {2, 3, 4}}}};
}

}  // namespace

const OpEntry& concat_op() {
  static const OpEntry entry = [] {
    OpEntry e = moves_entry<ConcatMoves>("concat");
    e.infer = infer;
    e.examples = examples;
    return e;
  }();
  return entry;
}

}  // namespace lockstep::ops
