#include "model/ops/shape/transpose.h"

#include <algorithm>

#include "core/error.h"
#include "model/ops/shape/moves.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  require(inputs.size() == 1, "transpose takes one input");
  const auto& axes = attrs.as<TransposeAttrs>().axes;
  const Shape& in = inputs[0];
  std::vector<std::int64_t> sorted = axes;
  std::sort(sorted.begin(), sorted.end());
  bool all = axes.size() == in.rank() && in.rank() <= most_axes;
  for (std::size_t i = 0; all && i < sorted.size(); ++i) all = sorted[i] == static_cast<std::int64_t>(i);
  if (!all)
    refuse(layer, "transpose names each axis of its input " + in.text() + " once, from 0 to " +
                      std::to_string(in.rank() - 1));
  std::vector<std::int64_t> dims;
  for (const std::int64_t axis : axes) dims.push_back(in[static_cast<std::size_t>(axis)]);
  return Shape(dims);
}

OpAttrs read(const LayerArguments& a) {
  return TransposeAttrs{a.numbers(0, 1, most_axes, "transpose:AxB or transpose:AxBxC")};
}

std::vector<OpExample> examples() {
  return {{TransposeAttrs{{1, 0}}, {{4, 7}}},
          {TransposeAttrs{{2, 0, 1}}, {{3, 4, 5}}},
          {TransposeAttrs{{0}}, {{9}}}};
}

}  // namespace

const OpEntry& transpose_op() {
  static const OpEntry entry = [] {
    OpEntry e = moves_entry<TransposeMoves>("transpose");
    e.infer = infer;
    e.layer = {"transpose:2x0x1", true, {}, read};
    e.examples = examples;
    return e;
  }();
  return entry;
}

}  // namespace lockstep::ops
