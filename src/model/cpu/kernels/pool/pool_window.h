#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/error.h"
#include "model/cpu/kernels/kernel.h"
#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {

/// The geometry of a pooling op: planes of (height, width, block) that do not know of one another. The shape
/// rules keep the padding below the window, so every window has at least one element inside the image.
struct PoolShape {
  std::int64_t blocks, height, width, block, out_height, out_width;
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;

  std::int64_t plane() const { return height * width * block; }
  std::int64_t out_plane() const { return out_height * out_width * block; }
};

template <class Attrs>
PoolShape pool_shape(const KernelSpec& spec, const Attrs& a) {
  const ValueLayout& in = spec.inputs.at(0);
  const ValueLayout& out = spec.output;
  // Channels of one pixel are contiguous whatever the block is called.
  const bool same = in.channels == out.channels && (in.block == out.block || (in.plain() && out.plain()));
  require(same, "pooling keeps the channels and the block of its input");
  const std::int64_t block = in.height * in.width == 1 ? out.block : in.block;
  require(a.pad_h < a.kernel_h && a.pad_w < a.kernel_w, "a pooling window lies in the padding alone");
  return {in.channels / block, in.height,  in.width,   block,      out.height, out.width,
          a.kernel_h,          a.kernel_w, a.stride_h, a.stride_w, a.pad_h,    a.pad_w};
}

/// The part of a window that lies inside the image, in one dimension: taps [low, high) of the window, whose
/// tap 0 is at `origin` (negative inside the padding).
struct Taps {
  std::int64_t origin, low, high;
};
LOCKSTEP_INLINE Taps taps_of(std::int64_t out, std::int64_t stride, std::int64_t pad, std::int64_t kernel,
                             std::int64_t extent) {
  const std::int64_t origin = out * stride - pad;
  return {origin, origin < 0 ? -origin : 0, extent - origin < kernel ? extent - origin : kernel};
}

template <std::int64_t n>
using Constant = std::integral_constant<std::int64_t, n>;

/// What one call works on: `count` lanes, at most 16. Lane l writes output element out + l and reads input
/// elements in + l * step + (ky * width + kx) * block, for taps ky of `v` and kx of `h`; both offsets are
/// within the plane.
template <class Step, class Count>
struct Windows {
  std::int64_t out, in;
  Taps v, h;
  Step step;
  Count count;
};

/// Plain layout: the lanes are neighbouring windows of one line, where these lie inside the image.
template <class Step, class Fn>
LOCKSTEP_INLINE void plain_windows(const PoolShape& s, Step step, Fn fn) {
  const std::int64_t inner_begin = std::min(s.out_width, (s.pad_w + s.stride_w - 1) / s.stride_w);
  const std::int64_t room = s.width + s.pad_w - s.kernel_w;
  const std::int64_t inner_end = room < 0 ? 0 : std::min(s.out_width, room / s.stride_w + 1);
  for (std::int64_t oh = 0; oh < s.out_height; ++oh) {
    const Taps v = taps_of(oh, s.stride_h, s.pad_h, s.kernel_h, s.height);
    std::int64_t ow = 0;
    while (ow < s.out_width) {
      const Taps h = taps_of(ow, s.stride_w, s.pad_w, s.kernel_w, s.width);
      const std::int64_t out = oh * s.out_width + ow;
      const std::int64_t in = v.origin * s.width + h.origin;
      const std::int64_t together = ow >= inner_begin && ow < inner_end ? std::min(lanes, inner_end - ow) : 1;
      if (together == lanes) {
        fn(Windows<Step, Constant<lanes>>{out, in, v, h, step, {}});
      } else {
        fn(Windows<Step, std::int64_t>{out, in, v, h, step, together});
      }
      ow += together;
    }
  }
}

/// Calls fn(Windows) so that every output element of a plane is in one call: in blocked layouts the lanes are
/// channels of one window, windows in row-major order. Counts and steps that are common are compile-time
/// constants.
template <class Fn>
LOCKSTEP_INLINE void for_each_window(const PoolShape& s, Fn fn) {
  if (s.block == 1) {
    if (s.stride_w == 2) return plain_windows(s, Constant<2>{}, fn);
    return plain_windows(s, s.stride_w, fn);
  }
  for (std::int64_t oh = 0; oh < s.out_height; ++oh) {
    const Taps v = taps_of(oh, s.stride_h, s.pad_h, s.kernel_h, s.height);
    for (std::int64_t ow = 0; ow < s.out_width; ++ow) {
      const Taps h = taps_of(ow, s.stride_w, s.pad_w, s.kernel_w, s.width);
      const std::int64_t out = (oh * s.out_width + ow) * s.block;
      const std::int64_t in = (v.origin * s.width + h.origin) * s.block;
      std::int64_t lane = 0;
      for (; lane + lanes <= s.block; lane += lanes) {
        fn(Windows<Constant<1>, Constant<lanes>>{out + lane, in + lane, v, h, {}, {}});
      }
      for (; lane + lanes / 2 <= s.block; lane += lanes / 2) {
        fn(Windows<Constant<1>, Constant<lanes / 2>>{out + lane, in + lane, v, h, {}, {}});
      }
      if (lane < s.block) {
        fn(Windows<Constant<1>, std::int64_t>{out + lane, in + lane, v, h, {}, s.block - lane});
      }
    }
  }
}

/// Calls part(vertical low, high, horizontal low, high, kernel_w), with constants for whole 2x2 windows where
/// the number of lanes is known as well.
template <class Step, class Count, class Part>
LOCKSTEP_INLINE void with_taps(const PoolShape& s, const Windows<Step, Count>& w, Part part) {
  if constexpr (!std::is_same_v<Count, std::int64_t>) {
    const bool inside = w.v.low == 0 && w.h.low == 0 && w.v.high == 2 && w.h.high == 2;
    if (s.kernel_h == 2 && s.kernel_w == 2 && inside) {
      return part(Constant<0>{}, Constant<2>{}, Constant<0>{}, Constant<2>{}, Constant<2>{});
    }
  }
  part(w.v.low, w.v.high, w.h.low, w.h.high, s.kernel_w);
}

}  // namespace lockstep::cpu
