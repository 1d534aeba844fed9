#include "model/ops/activation/leaky_relu.h"

#include "model/cpu/kernels/activation/unary_kernel.h"

namespace lockstep::cpu {
namespace {

LOCKSTEP_CLONES void forward(const float* x, float* y, std::int64_t n, float a) {
  const LeakyReluFunction f{a};
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) y[i] = f.value(x[i]);
}

LOCKSTEP_CLONES void backward(const float* x, const float* diff, float* dx, std::int64_t n, float a) {
  const LeakyReluFunction f{a};
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) dx[i] = diff[i] * f.slope(x[i]);
}

}  // namespace

std::unique_ptr<Kernel> make_leaky_relu(const KernelSpec& spec) {
  return std::make_unique<UnaryKernel>(
      "leakyrelu", spec,
      UnaryLoops{forward, backward,
                 LeakyReluFunction(spec.graph->nodes[static_cast<std::size_t>(spec.node)].attrs).negative});
}

}  // namespace lockstep::cpu
