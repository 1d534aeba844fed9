#include "model/cuda/ops/norm/line_norm_op.h"
#include "model/ops/norm/layer_norm.h"

namespace lockstep::cuda {
namespace {

struct LayerNormOptions {
  static LineNormOptions of(const OpAttrs& attrs) {
    return {attrs.as<LayerNormAttrs>().epsilon, LayerNormAttrs::centred};
  }
};

}  // namespace

const OwnOp& own_layer_norm() {
  return line_norm_op<LayerNormOptions>();
}

}  // namespace lockstep::cuda
