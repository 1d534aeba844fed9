#include "model/cpu/kernels/activation/unary_kernel.h"
#include "model/ops/activation/gelu_function.h"

namespace lockstep::cpu {
namespace {

LOCKSTEP_CLONES void gelu_forward(const float* x, float* y, std::int64_t n, float) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) y[i] = gelu_of(x[i]);
}

LOCKSTEP_CLONES void gelu_backward(const float* x, const float* diff, float* dx, std::int64_t n, float) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) dx[i] = diff[i] * gelu_slope(x[i]);
}

}  // namespace

/// Not fused into the layer in front, as ReLU is: the gradient needs GELU's input, which a fused layer would
/// have to write beside its output, and oneDNN does not promise that its eltwise_gelu_tanh gives the same
/// bits on other instruction sets.
std::unique_ptr<Kernel> make_gelu(const KernelSpec& spec) {
  return std::make_unique<UnaryKernel>("gelu", spec, UnaryLoops{gelu_forward, gelu_backward});
}

}  // namespace lockstep::cpu
