#pragma once

#include <string>
#include <vector>

#include "model/graph/op_support.h"

// The rules that max and average pooling share; `Attrs` is the attribute struct of either.

namespace lockstep::ops {

template <class Attrs>
Window pool_window(const OpAttrs& attrs) {
  const auto& a = attrs.as<Attrs>();
  return Window{a.kernel_h, a.kernel_w, a.stride_h, a.stride_w, a.pad_h, a.pad_w};
}

/// (channels, height, width) -> (channels, windows down, windows across). Throws ConfigError.
template <class Attrs>
Shape infer_pool(const OpAttrs& attrs, const std::vector<Shape>& inputs, const char* op,
                 const std::string& layer) {
  const Image in = one_image(inputs, op, layer);
  const Window window = pool_window<Attrs>(attrs);
  check_window(window, true, layer);
  return window_output(window, in, in.c, layer);
}

/// One addition or comparison per element of each window.
template <class Attrs>
std::int64_t pool_flops(const OpAttrs& attrs, const std::vector<Shape>&, const Shape& output) {
  const Window window = pool_window<Attrs>(attrs);
  return saturating_mul(saturating_mul(window.kernel_h, window.kernel_w), output.elements());
}

/// "2" or "3x2", then stride (by default the window's size) and padding.
template <class Attrs>
OpAttrs read_pool(const LayerArguments& a) {
  const auto n = a.numbers(1, 1, 2, "a pool's K or KHxKW");
  const auto [stride_h, stride_w] = a.pair("stride", 1, {n.front(), n.back()});
  const auto [pad_h, pad_w] = a.pair("pad", 0, {0, 0});
  return Attrs{n.front(), n.back(), stride_h, stride_w, pad_h, pad_w};
}

}  // namespace lockstep::ops
