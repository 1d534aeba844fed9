#pragma once

#include <string>
#include <vector>

#include "model/cuda/plan/plan.h"
#include "model/cuda/plan/plan_names.h"

namespace lockstep::cuda {

/// What a dense layer is asked for. Bias and GELU's input are in the activations' format.
enum class DensePass {
  forward,
  forward_relu,
  forward_bias,
  forward_bias_relu,
  forward_gelu,
  forward_bias_gelu,
  forward_gelu_aux,       ///< and writes GELU's input
  forward_bias_gelu_aux,  ///< and writes GELU's input
  data,
  data_gelu,  ///< dx times the slope of GELU at its input
  weights,
  weights_bias  ///< and the gradient of the bias, the sums of dy over rows, in float32 as that of the weights
};

/// "dense forward_bias 32 rows 784 to 10": for names and messages, as for convolutions.
std::string describe(DensePass pass, const DenseShape& shape);

bool has_bias(DensePass pass);  ///< reads the bias
bool has_gelu(DensePass pass);  ///< a forward pass with GELU
bool has_aux(DensePass pass);   ///< reads or writes GELU's input

/// The passes by which a command can be computed, as for convolutions.
std::vector<DensePass> passes_of(const DenseForward& command);
std::vector<DensePass> passes_of(const DenseBackwardData& command);
std::vector<DensePass> passes_of(const DenseBackwardWeights& command);

}  // namespace lockstep::cuda
