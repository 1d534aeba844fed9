#include "model/ops/activation/tanh.h"

#include "model/ops/activation/unary.h"

namespace lockstep::ops {

namespace {

struct Definition : TanhFunction {
  explicit Definition(const OpAttrs& attrs) : TanhFunction(attrs) {}
  static constexpr std::int64_t flops = 6;
  static void check(const OpAttrs&, const std::string&) {}
};

std::vector<OpExample> examples() {
  return {{TanhAttrs{}, {{33}}}, {TanhAttrs{}, {{16, 3, 5}}}, {TanhAttrs{}, {{4, 7}}}};
}

}  // namespace

const OpEntry& tanh_op() {
  static const OpEntry entry =
      unary_entry<Definition>("tanh", true, {"tanh", false, {}, read_nothing<TanhAttrs>}, examples);
  return entry;
}

}  // namespace lockstep::ops
