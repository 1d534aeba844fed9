#include "model/ops/activation/sigmoid.h"

#include "model/ops/activation/unary.h"

namespace lockstep::ops {

namespace {

struct Definition : SigmoidFunction {
  explicit Definition(const OpAttrs& attrs) : SigmoidFunction(attrs) {}
  static constexpr std::int64_t flops = 4;
  static void check(const OpAttrs&, const std::string&) {}
};

std::vector<OpExample> examples() {
  return {{SigmoidAttrs{}, {{33}}}, {SigmoidAttrs{}, {{16, 3, 5}}}, {SigmoidAttrs{}, {{4, 7}}}};
}

}  // namespace

const OpEntry& sigmoid_op() {
  static const OpEntry entry =
      unary_entry<Definition>("sigmoid", false, {"sigmoid", false, {}, read_nothing<SigmoidAttrs>}, examples);
  return entry;
}

}  // namespace lockstep::ops
