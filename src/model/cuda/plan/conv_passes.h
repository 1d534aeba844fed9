#pragma once

#include <string>
#include <vector>

#include "model/cuda/plan/plan.h"
#include "model/cuda/plan/plan_names.h"

namespace lockstep::cuda {

/// What a convolution is asked for. The bias is in the activations' format; scale, shift and sums are
/// float32.
enum class ConvPass {
  forward,
  forward_relu,
  forward_bias,
  forward_bias_relu,
  data,
  weights,
  weights_16_bits,
  forward_sums,           ///< and, per channel, the sums of y and of its squares over all rows
  forward_norm,           ///< y = scale conv(x) + shift, per channel
  forward_norm_relu,      ///< y = max(scale conv(x) + shift, 0)
  forward_norm_add_relu,  ///< y = max(scale conv(x) + shift + residual, 0)
  data_norm  ///< dx where the ReLU behind a norm let pass, and its sums for the norm (NormInFront)
};

/// "forward_bias 32x3x224x224 64x7x7 stride 2x2 pad 3x3 groups 1": for names and messages.
std::string describe(ConvPass pass, const ConvShape& shape);

/// Whether a pass may be taken where the library offers it. cudnn-frontend gives the sums of a convolution's
/// result the math type of that result, so those of float16 may be made in float16; cuDNN does not say. They
/// are taken only with `half_sums` (CudaOptions).
bool is_trusted(ConvPass pass, Precision precision, bool half_sums);

/// The passes by which a command can be computed, the one that does most first. The last is the product
/// alone, which every library has; own kernels then do the rest.
std::vector<ConvPass> passes_of(const ConvForward& command);
std::vector<ConvPass> passes_of(const ConvNormForward& command);
std::vector<ConvPass> passes_of(const ConvBackwardData& command);
/// In 16 bits the gradient of weights is float32 where there is such a plan, else 16 bits, widened.
std::vector<ConvPass> passes_of(const ConvBackwardWeights& command, Precision precision);

}  // namespace lockstep::cuda
