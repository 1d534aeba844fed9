#include "model/ops/norm/rms_norm.h"

#include "model/cpu/kernels/norm/line_norm.h"
#include "model/cpu/kernels/own_kernel.h"

namespace lockstep::cpu {

std::unique_ptr<Kernel> make_rms_norm(const KernelSpec& spec) {
  const auto& attrs = attrs_of<RmsNormAttrs>(spec);
  return make_line_norm(spec, {"rms_norm", attrs.epsilon, false, false});
}

}  // namespace lockstep::cpu
