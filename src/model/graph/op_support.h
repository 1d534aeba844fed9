#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/index.h"
#include "core/shape.h"
#include "model/graph/layer_arguments.h"
#include "model/graph/op_entry.h"

// What the shape rules and references of several ops share. Device-neutral.

namespace lockstep::ops {

/// No tensor of a model may hold more elements (2^40): products of extents then fit 64 bits with room to
/// spare.
inline constexpr std::int64_t largest_tensor = std::int64_t{1} << 40;

/// An image's extents, from a shape (channels, height, width).
struct Image {
  std::int64_t c = 0, h = 0, w = 0;
};
Image image_of(const Shape& shape);

/// Throws ConfigError "layer 'conv1': <what>".
[[noreturn]] void refuse(const std::string& layer, const std::string& what);

/// `shape`, when every extent is at least 1 and their product at most largest_tensor; else throws
/// ConfigError.
Shape checked(const Shape& shape, const std::string& layer, const std::string& what);

/// The one input of an op, checked to have (channels, height, width). `op` is the name in messages.
Image one_image(const std::vector<Shape>& inputs, const char* op, const std::string& layer);

/// A sliding window over an image: convolution and pooling.
struct Window {
  std::int64_t kernel_h = 0, kernel_w = 0, stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0;
};

/// Throws ConfigError unless kernel and strides are at least 1 and padding at least 0 (and, with
/// `pad_below_kernel`, less than the kernel, so that no window lies in the padding alone).
void check_window(const Window& window, bool pad_below_kernel, const std::string& layer);

/// (channels, height, width) of the output: floor((extent + 2 pad - kernel) / stride) + 1 per axis. Throws
/// ConfigError with both shapes when the window is larger than the padded input.
Shape window_output(const Window& window, Image in, std::int64_t channels, const std::string& layer);

/// a * b, or the largest std::int64_t where that does not fit. Both must be at least 0.
std::int64_t saturating_mul(std::int64_t a, std::int64_t b);

/// Calls fn(iy, ix, ky, kx) for each place of the window at output (oy, ox) that lies inside the image,
/// row-major.
template <class Fn>
void for_each_tap(const Window& window, Image in, std::int64_t oy, std::int64_t ox, Fn fn) {
  for (std::int64_t ky = 0; ky < window.kernel_h; ++ky) {
    const std::int64_t iy = oy * window.stride_h - window.pad_h + ky;
    if (iy < 0 || iy >= in.h) continue;
    for (std::int64_t kx = 0; kx < window.kernel_w; ++kx) {
      const std::int64_t ix = ox * window.stride_w - window.pad_w + kx;
      if (ix < 0 || ix >= in.w) continue;
      fn(iy, ix, ky, kx);
    }
  }
}

/// OpEntry::length of an op whose output has as many positions as its input.
inline std::int64_t same_length(const OpAttrs&, std::int64_t length) {
  return length;
}

/// The bias that goes with a weight: PyTorch draws both alike; the schemes of He et al. start it at zero.
InitKind bias_init(InitKind weight);

/// The reader of a layer that has neither numbers nor options (LayerRule::read).
template <class Attrs>
OpAttrs read_nothing(const LayerArguments&) {
  return Attrs{};
}

using lockstep::at;

}  // namespace lockstep::ops
