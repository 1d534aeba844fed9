#pragma once

#include <cstdint>
#include <string>

#include "core/error.h"
#include "model/cuda/plan/conv_passes.h"
#include "model/cuda/plan/dense_passes.h"

namespace lockstep::test {

/// Which of the fused plans a library has that the host plays.
struct HostLibrary {
  bool norms = true;   ///< convolution, scale, shift, residual, ReLU
  bool sums = true;    ///< convolution and the sums of its result
  bool masks = true;   ///< a convolution's data gradient, the mask of a ReLU, the sums for the norm behind it
  bool gelus = true;   ///< a dense layer and the GELU behind it
  bool biases = true;  ///< a dense layer's gradients of weights and bias
  bool slopes = true;  ///< a dense layer's data gradient and the slope of the GELU in front
  std::int64_t least_channels = 1;  ///< of a convolution's input: fewer have no plan at all
  bool prepare(cuda::ConvPass pass, const cuda::ConvShape& shape, const std::string& wanted) const {
    using cuda::ConvPass;
    if (shape.in_channels < least_channels) return false;
    const bool norm = pass == ConvPass::forward_norm || pass == ConvPass::forward_norm_relu ||
                      pass == ConvPass::forward_norm_add_relu;
    const bool has = pass == ConvPass::forward || pass == ConvPass::data || (norm && norms) ||
                     (pass == ConvPass::forward_sums && sums) || (pass == ConvPass::data_norm && masks);
    if (!has && !wanted.empty()) throw DeviceError("the host has not the plan that was chosen elsewhere");
    return has;
  }
  bool prepare(cuda::DensePass pass, const cuda::DenseShape&, const std::string& wanted) const {
    using cuda::DensePass;
    const bool has = pass == DensePass::forward || pass == DensePass::data || pass == DensePass::weights ||
                     (pass == DensePass::weights_bias && biases) || (has_gelu(pass) && gelus) ||
                     (pass == DensePass::data_gelu && slopes);
    if (!has && !wanted.empty()) throw DeviceError("the host has not the plan that was chosen elsewhere");
    return has;
  }
  template <class Pass, class Shape>
  bool offers(Pass pass, const Shape& shape, const std::string&) const {
    return prepare(pass, shape, "");
  }
  template <class Pass, class Shape>
  std::string name(Pass, const Shape&) const {
    return "loops";
  }
};

inline constexpr HostLibrary nothing_fused{false, false, false, false, false, false};

}  // namespace lockstep::test
