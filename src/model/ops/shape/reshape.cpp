#include "model/ops/shape/reshape.h"

#include "core/error.h"
#include "model/ops/shape/flatten.h"
#include "model/ops/shape/moves.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  require(inputs.size() == 1, "reshape takes one input");
  const Shape& to = attrs.as<ReshapeAttrs>().shape;
  if (to.rank() < 1 || to.rank() > most_axes || inputs[0].rank() > most_axes)
    refuse(layer, "reshape from " + inputs[0].text() + " to " + to.text() + ": between 1 and " +
                      std::to_string(most_axes) + " axes are allowed");
  if (to.elements() != inputs[0].elements())
    refuse(layer, "its input " + inputs[0].text() + " has " + std::to_string(inputs[0].elements()) +
                      " elements, but " + to.text() + " has " + std::to_string(to.elements()));
  return to;
}

OpAttrs read(const LayerArguments& a) {
  return ReshapeAttrs{Shape(a.numbers(1, 1, most_axes, "reshape:N, reshape:AxB or reshape:AxBxC"))};
}

std::vector<OpExample> examples() {
  return {{ReshapeAttrs{Shape{6, 4}}, {{2, 3, 4}}},
          {ReshapeAttrs{Shape{3, 2, 5}}, {{30}}},
          {ReshapeAttrs{Shape{5, 3, 4}}, {{3, 4, 5}}}};
}

}  // namespace

const OpEntry& reshape_op() {
  static const OpEntry entry = {.name = "reshape",
                                .traits = {.layout = OpTraits::Layout::plain,
                                           .mixes_rows = false,
                                           .zero_rows = OpTraits::ZeroRows::kept,
                                           .independent = true},
                                .infer = infer,
                                .flops = no_flops,
                                .forward = flatten_op().forward,  // the same numbers in the same order
                                .backward = flatten_op().backward,
                                .layer = {"reshape:16x8", true, {}, read},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
