#include "model/ops/activation/silu.h"

#include "model/ops/activation/unary.h"

namespace lockstep::ops {

namespace {

struct Definition : SiluFunction {
  explicit Definition(const OpAttrs& attrs) : SiluFunction(attrs) {}
  static constexpr std::int64_t flops = 5;
  static void check(const OpAttrs&, const std::string&) {}
};

std::vector<OpExample> examples() {
  return {{SiluAttrs{}, {{33}}}, {SiluAttrs{}, {{16, 3, 5}}}, {SiluAttrs{}, {{4, 7}}}};
}

}  // namespace

const OpEntry& silu_op() {
  static const OpEntry entry =
      unary_entry<Definition>("silu", true, {"silu", false, {}, read_nothing<SiluAttrs>}, examples);
  return entry;
}

}  // namespace lockstep::ops
