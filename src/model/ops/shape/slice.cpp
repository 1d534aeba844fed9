#include "model/ops/shape/slice.h"

#include "core/error.h"
#include "model/ops/shape/moves.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  require(inputs.size() == 1, "slice takes one input");
  const auto& a = attrs.as<SliceAttrs>();
  const Shape& in = inputs[0];
  check_axis(a.axis, in, layer);
  std::vector<std::int64_t> dims(in.dims().begin(), in.dims().end());
  std::int64_t& extent = dims[at(a.axis)];
  if (a.begin < 0 || a.begin >= a.end || a.end > extent)
    refuse(layer, "[" + std::to_string(a.begin) + ", " + std::to_string(a.end) + ") is no part of axis " +
                      std::to_string(a.axis) + " of its input " + in.text());
  extent = a.end - a.begin;
  return Shape(dims);
}

OpAttrs read(const LayerArguments& a) {
  const auto n = a.numbers(0, 2, 2, "slice:BEGINxEND");
  return SliceAttrs{a.number("axis", 0, 0), n[0], n[1]};
}

std::vector<OpExample> examples() {
  return {{SliceAttrs{0, 2, 5}, {{9}}},
          {SliceAttrs{1, 0, 3}, {{4, 7}}},
          {SliceAttrs{0, 1, 3}, {{3, 4, 5}}},
          {SliceAttrs{2, 4, 5}, {{3, 4, 5}}}};
}

}  // namespace

const OpEntry& slice_op() {
  static const OpEntry entry = [] {
    OpEntry e = moves_entry<SliceMoves>("slice");
    e.infer = infer;
    e.layer = {"slice:0x2,axis=0", true, {"axis"}, read};
    e.examples = examples;
    return e;
  }();
  return entry;
}

}  // namespace lockstep::ops
