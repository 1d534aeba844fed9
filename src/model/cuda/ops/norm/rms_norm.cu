#include "model/cuda/ops/norm/line_norm_op.h"
#include "model/ops/norm/rms_norm.h"

namespace lockstep::cuda {
namespace {

struct RmsNormOptions {
  static LineNormOptions of(const OpAttrs& attrs) {
    return {attrs.as<RmsNormAttrs>().epsilon, RmsNormAttrs::centred};
  }
};

}  // namespace

const OwnOp& own_rms_norm() {
  return line_norm_op<RmsNormOptions>();
}

}  // namespace lockstep::cuda
