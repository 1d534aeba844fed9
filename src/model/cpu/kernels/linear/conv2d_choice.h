#pragma once

#include <cstdint>
#include <dnnl.hpp>
#include <string>
#include <vector>

#include "model/cpu/kernels/kernel.h"
#include "model/cpu/onednn/onednn.h"

namespace lockstep::cpu {

enum class ConvDirection { forward, data, weights };

/// Everything a convolution's primitives depend on, besides the rows they take.
struct ConvShape {
  explicit ConvShape(const KernelSpec& spec);

  std::int64_t groups, in_channels, out_channels;
  std::int64_t in_h, in_w, out_h, out_w;
  std::int64_t kernel_h, kernel_w;
  dnnl::memory::dims strides, padding;
  bool bias, relu;
  dnnl::memory::format_tag input_layout, output_layout;
  NumberFormat factors;                      ///< what products are made of
  NumberFormat input_format, output_format;  ///< of the values of the plan

  std::int64_t input_elements() const { return in_channels * in_h * in_w; }      ///< of one row
  std::int64_t output_elements() const { return out_channels * out_h * out_w; }  ///< of one row
  std::int64_t weight_elements() const { return out_channels * (in_channels / groups) * kernel_h * kernel_w; }
  double flops(std::int64_t rows) const;  ///< forward, multiply-adds counted as two

  // What a direction reads is in the format of factors; what it writes in that of the plan's value. Gradients
  // of weights are float32.
  dnnl::memory::desc input(ConvDirection direction, std::int64_t rows, dnnl::memory::format_tag tag) const;
  dnnl::memory::desc output(ConvDirection direction, std::int64_t rows, dnnl::memory::format_tag tag) const;
  /// (out, in / groups, kh, kw), with a leading dimension of groups where there are several.
  dnnl::memory::desc weights(ConvDirection direction, dnnl::memory::format_tag tag) const;
  /// As files hold them: row-major, float32.
  dnnl::memory::desc plain_weights() const;
  dnnl::memory::desc bias_desc() const;
  /// The same convolution with the first `channels` outputs only. For one group.
  ConvShape with_outputs(std::int64_t channels) const;
};

/// One direction of a convolution for a number of rows. Where the library has no fast implementation for the
/// layouts of the plan, it runs in others and converts in the lane's scratch.
class ConvCall {
 public:
  ConvCall() = default;
  /// `weights`: the layout to take them in, or `any`. For ConvDirection::weights: the layout to write,
  /// whatever the library makes.
  ConvCall(const OnednnContext& context, const ConvShape& shape, ConvDirection direction, std::int64_t rows,
           const dnnl::memory::desc& weights);

  /// The layout of the weights that run() takes or writes; of no bytes where the library has no
  /// implementation.
  const dnnl::memory::desc& weights() const { return weights_; }
  const std::string& implementation() const { return implementation_; }
  bool converts() const { return to_input_ || from_input_ || to_output_ || from_output_ || from_weights_; }
  std::size_t scratch_bytes() const { return scratch_bytes_; }

  /// `input`, `output`: values or their gradients in the plan's layouts and in the formats of
  /// ConvShape::input() and output(), of the rows of this call. What the
  /// direction computes is written, the rest is read. `bias` may be null where there is none.
  void run(int lane, const void* input, const void* weights, const void* bias, const void* output,
           std::byte* scratch) const;

 private:
  ConvDirection direction_ = ConvDirection::forward;
  OnednnCall call_;
  OnednnReorder to_input_, from_input_, to_output_, from_output_, from_weights_;
  dnnl::memory::desc weights_;
  std::size_t input_bytes_ = 0, output_bytes_ = 0, weights_bytes_ = 0, pad_bytes_ = 0, scratch_bytes_ = 0;
  std::string implementation_;
};

/// How the weights lie in the flat buffers: as the weight gradient is produced, so that no gradient is ever
/// converted; plain where that would be padded. Independent of rows and of training.
dnnl::memory::desc weight_storage(const OnednnContext& context, const ConvShape& shape);

/// The layout of `channels` outputs within `storage`, or a descriptor of no bytes where a range of output
/// channels is not a range of the storage.
dnnl::memory::desc storage_of_outputs(const dnnl::memory::desc& storage, const ConvShape& part);

}  // namespace lockstep::cpu
