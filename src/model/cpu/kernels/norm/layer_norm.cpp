#include "model/ops/norm/layer_norm.h"

#include "model/cpu/kernels/norm/line_norm.h"
#include "model/cpu/kernels/own_kernel.h"

namespace lockstep::cpu {

std::unique_ptr<Kernel> make_layer_norm(const KernelSpec& spec) {
  const auto& attrs = attrs_of<LayerNormAttrs>(spec);
  return make_line_norm(spec, {"layer_norm", attrs.epsilon, true, attrs.bias});
}

}  // namespace lockstep::cpu
