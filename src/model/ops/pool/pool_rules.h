#pragma once

#include <string>
#include <variant>
#include <vector>

#include "model/graph/op_support.h"

// The rules that max and average pooling share; `Attrs` is the attribute struct of either.

namespace lockstep::ops {

template <class Attrs>
Window pool_window(const OpAttrs& attrs) {
  const auto& a = std::get<Attrs>(attrs);
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

}  // namespace lockstep::ops
