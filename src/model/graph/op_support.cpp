#include "model/graph/op_support.h"

#include <limits>

#include "core/error.h"

namespace lockstep::ops {

namespace {

// Bounds of kernel, stride and padding, far above any use; sums of them with extents cannot overflow.
constexpr std::int64_t largest_window = std::int64_t{1} << 30;

std::string pair_text(std::int64_t h, std::int64_t w) {
  return std::to_string(h) + "x" + std::to_string(w);
}

}  // namespace

Image image_of(const Shape& shape) {
  return Image{shape[0], shape[1], shape[2]};
}

void refuse(const std::string& layer, const std::string& what) {
  throw ConfigError("layer '" + layer + "': " + what);
}

Shape checked(const Shape& shape, const std::string& layer, const std::string& what) {
  std::int64_t elements = 1;
  for (const std::int64_t extent : shape) {
    if (extent < 1)
      refuse(layer, what + " would be " + shape.text() + ", but every extent must be at least 1");
    if (extent > largest_tensor || elements > largest_tensor / extent) {
      refuse(layer,
             what + " would be " + shape.text() + ", more than the 2^40 elements that a tensor may hold");
    }
    elements *= extent;
  }
  return shape;
}

Image one_image(const std::vector<Shape>& inputs, const char* op, const std::string& layer) {
  require(inputs.size() == 1, "an op with one input was given another number of inputs");
  if (inputs[0].rank() != 3) {
    refuse(layer, std::string(op) + " takes (channels, height, width), but its input is " + inputs[0].text());
  }
  return image_of(inputs[0]);
}

void check_window(const Window& window, bool pad_below_kernel, const std::string& layer) {
  const std::string kernel = pair_text(window.kernel_h, window.kernel_w);
  const std::string stride = pair_text(window.stride_h, window.stride_w);
  const std::string pad = pair_text(window.pad_h, window.pad_w);
  const auto within = [](std::int64_t v, std::int64_t low) { return v >= low && v <= largest_window; };
  if (!within(window.kernel_h, 1) || !within(window.kernel_w, 1)) {
    refuse(layer, "the kernel is " + kernel + ", but both sides must be between 1 and 2^30");
  }
  if (!within(window.stride_h, 1) || !within(window.stride_w, 1)) {
    refuse(layer, "the stride is " + stride + ", but both steps must be between 1 and 2^30");
  }
  if (!within(window.pad_h, 0) || !within(window.pad_w, 0)) {
    refuse(layer, "the padding is " + pad + ", but both sides must be between 0 and 2^30");
  }
  if (pad_below_kernel && (window.pad_h >= window.kernel_h || window.pad_w >= window.kernel_w)) {
    refuse(layer, "the padding " + pad + " must be less than the window " + kernel +
                      ", so that no window lies in the padding alone");
  }
}

Shape window_output(const Window& window, Image in, std::int64_t channels, const std::string& layer) {
  const std::int64_t room_h = in.h + 2 * window.pad_h - window.kernel_h;
  const std::int64_t room_w = in.w + 2 * window.pad_w - window.kernel_w;
  if (room_h < 0 || room_w < 0) {
    refuse(layer, "the window " + pair_text(window.kernel_h, window.kernel_w) + " is larger than its input " +
                      Shape{in.c, in.h, in.w}.text() + " with padding " +
                      pair_text(window.pad_h, window.pad_w));
  }
  return checked(Shape{channels, room_h / window.stride_h + 1, room_w / window.stride_w + 1}, layer,
                 "its output");
}

std::int64_t saturating_mul(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<std::int64_t>::max() : product;
}

InitKind bias_init(InitKind weight) {
  return weight == InitKind::torch_linear ? InitKind::torch_linear : InitKind::zeros;
}

}  // namespace lockstep::ops
