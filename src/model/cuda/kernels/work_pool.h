#pragma once

#include <cstdint>

#include "model/cuda/kernels/packs.h"

// Pooling. cuDNN has it too, but does not say which of several equal maxima takes the gradient, nor promises
// the same bits of its maximum's backward pass; a gather per element does both and is bound by memory alike.

namespace lockstep::cuda {

struct PoolShape {
  std::int64_t channels, in_h, in_w, out_h, out_w;
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
  /// Whether places in a window, and "none", are kept in a byte each.
  bool byte_places() const { return kernel_h * kernel_w <= 255; }
};

/// How packs find their place. An image has fewer than 2^31 packs.
struct PoolPacks {
  Divider channel_packs, width, height, stride_h, stride_w;
  std::uint32_t in_width, in_height, out_width, out_height, channels;  ///< channels: packs of them
  std::int32_t kernel_h, kernel_w, pad_h, pad_w, step_h, step_w;
  bool fit = false;  ///< into 32 bits

  /// `of_input`: items are those of the input's side.
  PoolPacks(const PoolShape& s, bool of_input)
      : channel_packs(s.channels < pack_elements ? 1 : s.channels / pack_elements),
        width(of_input ? s.in_w : s.out_w),
        height(of_input ? s.in_h : s.out_h),
        stride_h(s.stride_h),
        stride_w(s.stride_w),
        in_width(static_cast<std::uint32_t>(s.in_w)),
        in_height(static_cast<std::uint32_t>(s.in_h)),
        out_width(static_cast<std::uint32_t>(s.out_w)),
        out_height(static_cast<std::uint32_t>(s.out_h)),
        channels(static_cast<std::uint32_t>(s.channels / pack_elements)),
        kernel_h(static_cast<std::int32_t>(s.kernel_h)),
        kernel_w(static_cast<std::int32_t>(s.kernel_w)),
        pad_h(static_cast<std::int32_t>(s.pad_h)),
        pad_w(static_cast<std::int32_t>(s.pad_w)),
        step_h(static_cast<std::int32_t>(s.stride_h)),
        step_w(static_cast<std::int32_t>(s.stride_w)) {
    const std::int64_t most = std::int64_t{1} << 30;
    fit = s.in_h + s.pad_h + s.kernel_h < most && s.in_w + s.pad_w + s.kernel_w < most &&
          s.in_h * s.in_w < most / s.channels && s.out_h * s.out_w < most / s.channels && s.stride_h < most &&
          s.stride_w < most;
  }
  struct Place {
    std::uint32_t c, x, y;
    std::int64_t image;
  };
  LOCKSTEP_HOST_DEVICE Place place_of(std::uint32_t pack) const {
    Place p;
    p.c = channel_packs.take_rest(pack);
    p.x = width.take_rest(pack);
    p.y = height.take_rest(pack);
    p.image = pack;
    return p;
  }
  /// The pack of the first place of an image.
  LOCKSTEP_HOST_DEVICE std::int64_t input_of(const Place& p) const {
    return p.image * static_cast<std::int64_t>(in_height * in_width * channels) + p.c;
  }
  LOCKSTEP_HOST_DEVICE std::int64_t output_of(const Place& p) const {
    return p.image * static_cast<std::int64_t>(out_height * out_width * channels) + p.c;
  }
  /// Along one axis the taps [first, last) of a window lie inside the image; tap 0 at `origin`.
  struct Taps {
    std::int32_t origin, first, last;
  };
  LOCKSTEP_HOST_DEVICE static Taps taps(std::uint32_t out, std::int32_t step, std::int32_t pad,
                                        std::int32_t kernel, std::uint32_t in) {
    const std::int32_t origin = static_cast<std::int32_t>(out) * step - pad;
    const std::int32_t left = static_cast<std::int32_t>(in) - origin;
    return {origin, origin < 0 ? -origin : 0, kernel < left ? kernel : left};
  }
  LOCKSTEP_HOST_DEVICE Taps taps_h(std::uint32_t oy) const {
    return taps(oy, step_h, pad_h, kernel_h, in_height);
  }
  LOCKSTEP_HOST_DEVICE Taps taps_w(std::uint32_t ox) const {
    return taps(ox, step_w, pad_w, kernel_w, in_width);
  }
  /// pool_reach().
  struct Reach {
    std::int32_t first, last;
  };
  LOCKSTEP_HOST_DEVICE static Reach reach(std::uint32_t at, std::int32_t pad, std::int32_t kernel,
                                          const Divider& stride, std::uint32_t out) {
    const auto shifted = static_cast<std::int32_t>(at) + pad;
    const std::int32_t first =
        shifted < kernel
            ? 0
            : static_cast<std::int32_t>(stride.quotient(static_cast<std::uint32_t>(shifted - kernel))) + 1;
    const auto last = static_cast<std::int32_t>(stride.quotient(static_cast<std::uint32_t>(shifted)));
    return {first, last < static_cast<std::int32_t>(out) ? last : static_cast<std::int32_t>(out) - 1};
  }
  LOCKSTEP_HOST_DEVICE Reach reach_h(std::uint32_t iy) const {
    return reach(iy, pad_h, kernel_h, stride_h, out_height);
  }
  LOCKSTEP_HOST_DEVICE Reach reach_w(std::uint32_t ix) const {
    return reach(ix, pad_w, kernel_w, stride_w, out_width);
  }
  LOCKSTEP_HOST_DEVICE std::uint32_t input_offset(std::int32_t iy, std::int32_t ix) const {
    return (static_cast<std::uint32_t>(iy) * in_width + static_cast<std::uint32_t>(ix)) * channels;
  }
  LOCKSTEP_HOST_DEVICE std::uint32_t output_offset(std::int32_t oy, std::int32_t ox) const {
    return (static_cast<std::uint32_t>(oy) * out_width + static_cast<std::uint32_t>(ox)) * channels;
  }
};

/// Eight places in windows.
struct alignas(8) BytePlaces {
  std::uint32_t word[2];
};
template <class Place>
LOCKSTEP_HOST_DEVICE inline BytePlaces read_places(const Place* from, std::int64_t pack) {
#ifdef __CUDA_ARCH__
  return *reinterpret_cast<const BytePlaces*>(from + pack * pack_elements);
#else
  BytePlaces p;
  __builtin_memcpy(&p, from + pack * pack_elements, sizeof p);
  return p;
#endif
}
template <class Place>
LOCKSTEP_HOST_DEVICE inline void write_places(Place* to, std::int64_t pack, const BytePlaces& p) {
#ifdef __CUDA_ARCH__
  *reinterpret_cast<BytePlaces*>(to + pack * pack_elements) = p;
#else
  __builtin_memcpy(to + pack * pack_elements, &p, sizeof p);
#endif
}

/// Item: element of y. The first largest place of the window, row-major, wins; NaN is larger than everything.
/// Place: std::uint8_t where byte_places(), else std::int32_t.
template <class T, class Place>
struct MaxPool {
  const T* x;
  T* y;
  Place* taken;  ///< place in the window, for backward, or Place(-1); may be null
  PoolShape s;
  PoolPacks packs{s, false};
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % s.channels;
    std::int64_t rest = i / s.channels;
    const std::int64_t ox = rest % s.out_w;
    rest /= s.out_w;
    const std::int64_t oy = rest % s.out_h, n = rest / s.out_h;
    float best = 0.0f;
    std::int32_t at = -1;
    for (std::int64_t ky = 0; ky < s.kernel_h; ++ky) {
      const std::int64_t iy = oy * s.stride_h - s.pad_h + ky;
      if (iy < 0 || iy >= s.in_h) continue;
      for (std::int64_t kx = 0; kx < s.kernel_w; ++kx) {
        const std::int64_t ix = ox * s.stride_w - s.pad_w + kx;
        if (ix < 0 || ix >= s.in_w) continue;
        const float v = load(x[((n * s.in_h + iy) * s.in_w + ix) * s.channels + c]);
        if (at < 0 || v > best || (v != v && best == best)) {
          best = v;
          at = static_cast<std::int32_t>(ky * s.kernel_w + kx);
        }
      }
    }
    store(y[i], best);
    if (taken != nullptr) taken[i] = static_cast<Place>(at);
  }

  std::int64_t pack_channels() const { return s.channels; }
  bool pack_addresses() const {
    return packs.fit && begin_packs(x, y, taken) && (sizeof(Place) == 1 || taken == nullptr);
  }
  LOCKSTEP_HOST_DEVICE NothingKept begin(std::uint32_t) const { return {}; }
  LOCKSTEP_HOST_DEVICE NothingRead read(std::uint32_t, NothingKept) const { return {}; }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, NothingRead, NothingKept) const {
    const PoolPacks::Place p = packs.place_of(i);
    const PoolPacks::Taps ys = packs.taps_h(p.y), xs = packs.taps_w(p.x);
    const std::int64_t image = packs.input_of(p);
    Eight best{};
    std::uint32_t at[pack_elements];
    for (std::uint32_t& a : at) a = 0xffu;
    bool first = true;
    for (std::int32_t ky = ys.first; ky < ys.last; ++ky)
      for (std::int32_t kx = xs.first; kx < xs.last; ++kx) {
        const Eight v = load(read_pack(x, image + packs.input_offset(ys.origin + ky, xs.origin + kx)));
        const auto tap = static_cast<std::uint32_t>(ky * packs.kernel_w + kx);
        for (int j = 0; j < pack_elements; ++j) {
          // Larger, or NaN where there is none yet.
          const bool take = first || (!(v.v[j] <= best.v[j]) && best.v[j] == best.v[j]);
          best.v[j] = take ? v.v[j] : best.v[j];
          at[j] = take ? tap : at[j];
        }
        first = false;
      }
    store(y, i, best);
    if (taken == nullptr) return;
    BytePlaces bytes{};
    for (int j = 0; j < pack_elements; ++j) bytes.word[j / 4] |= (at[j] & 0xffu) << (j % 4 * 8);
    write_places(taken, i, bytes);
  }
};

/// The windows that hold input place `at` along one axis: outputs [first, last].
struct PoolReach {
  std::int64_t first, last;
};
LOCKSTEP_HOST_DEVICE inline PoolReach pool_reach(std::int64_t at, std::int64_t pad, std::int64_t kernel,
                                                 std::int64_t stride, std::int64_t out) {
  const std::int64_t shifted = at + pad;
  PoolReach reach{shifted < kernel ? 0 : (shifted - kernel) / stride + 1, shifted / stride};
  if (reach.last > out - 1) reach.last = out - 1;
  return reach;
}

/// Item: element of dx.
template <class T, class Place>
struct MaxPoolBackward {
  const T* dy;
  const Place* taken;
  T* dx;
  PoolShape s;
  PoolPacks packs{s, true};
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % s.channels;
    std::int64_t rest = i / s.channels;
    const std::int64_t ix = rest % s.in_w;
    rest /= s.in_w;
    const std::int64_t iy = rest % s.in_h, n = rest / s.in_h;
    const PoolReach ys = pool_reach(iy, s.pad_h, s.kernel_h, s.stride_h, s.out_h);
    const PoolReach xs = pool_reach(ix, s.pad_w, s.kernel_w, s.stride_w, s.out_w);
    float sum = 0.0f;
    for (std::int64_t oy = ys.first; oy <= ys.last; ++oy)
      for (std::int64_t ox = xs.first; ox <= xs.last; ++ox) {
        const std::int64_t tap =
            (iy + s.pad_h - oy * s.stride_h) * s.kernel_w + (ix + s.pad_w - ox * s.stride_w);
        const std::int64_t o = ((n * s.out_h + oy) * s.out_w + ox) * s.channels + c;
        if (taken[o] == tap) sum += load(dy[o]);
      }
    store(dx[i], sum);
  }

  std::int64_t pack_channels() const { return s.channels; }
  bool pack_addresses() const { return packs.fit && begin_packs(dy, taken, dx) && sizeof(Place) == 1; }
  LOCKSTEP_HOST_DEVICE NothingKept begin(std::uint32_t) const { return {}; }
  LOCKSTEP_HOST_DEVICE NothingRead read(std::uint32_t, NothingKept) const { return {}; }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, NothingRead, NothingKept) const {
    const PoolPacks::Place p = packs.place_of(i);
    const PoolPacks::Reach ys = packs.reach_h(p.y), xs = packs.reach_w(p.x);
    const std::int64_t image = packs.output_of(p);
    const std::int32_t iy = static_cast<std::int32_t>(p.y) + packs.pad_h;
    const std::int32_t ix = static_cast<std::int32_t>(p.x) + packs.pad_w;
    Eight sum{};
    for (std::int32_t oy = ys.first; oy <= ys.last; ++oy)
      for (std::int32_t ox = xs.first; ox <= xs.last; ++ox) {
        const auto tap =
            static_cast<std::uint32_t>((iy - oy * packs.step_h) * packs.kernel_w + (ix - ox * packs.step_w));
        const std::int64_t at = image + packs.output_offset(oy, ox);
        const BytePlaces bytes = read_places(taken, at);
        const Eight g = load(read_pack(dy, at));
        for (int j = 0; j < pack_elements; ++j)
          if (((bytes.word[j / 4] >> (j % 4 * 8)) & 0xffu) == tap) sum.v[j] += g.v[j];
      }
    store(dx, i, sum);
  }
};

/// Places of window (oy, ox) that lie inside the image.
LOCKSTEP_HOST_DEVICE inline float pool_places(const PoolShape& s, std::int64_t oy, std::int64_t ox) {
  const std::int64_t y0 = oy * s.stride_h - s.pad_h, x0 = ox * s.stride_w - s.pad_w;
  const std::int64_t top = y0 < 0 ? 0 : y0, left = x0 < 0 ? 0 : x0;
  const std::int64_t bottom = y0 + s.kernel_h < s.in_h ? y0 + s.kernel_h : s.in_h;
  const std::int64_t right = x0 + s.kernel_w < s.in_w ? x0 + s.kernel_w : s.in_w;
  return static_cast<float>((bottom - top) * (right - left));
}

/// Item: element of y. The divisor counts places inside the image.
template <class T>
struct AvgPool {
  const T* x;
  T* y;
  PoolShape s;
  PoolPacks packs{s, false};
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % s.channels;
    std::int64_t rest = i / s.channels;
    const std::int64_t ox = rest % s.out_w;
    rest /= s.out_w;
    const std::int64_t oy = rest % s.out_h, n = rest / s.out_h;
    float sum = 0.0f;
    for (std::int64_t ky = 0; ky < s.kernel_h; ++ky) {
      const std::int64_t iy = oy * s.stride_h - s.pad_h + ky;
      if (iy < 0 || iy >= s.in_h) continue;
      for (std::int64_t kx = 0; kx < s.kernel_w; ++kx) {
        const std::int64_t ix = ox * s.stride_w - s.pad_w + kx;
        if (ix < 0 || ix >= s.in_w) continue;
        sum += load(x[((n * s.in_h + iy) * s.in_w + ix) * s.channels + c]);
      }
    }
    store(y[i], sum / pool_places(s, oy, ox));
  }

  std::int64_t pack_channels() const { return s.channels; }
  bool pack_addresses() const { return packs.fit && begin_packs(x, y); }
  LOCKSTEP_HOST_DEVICE NothingKept begin(std::uint32_t) const { return {}; }
  LOCKSTEP_HOST_DEVICE NothingRead read(std::uint32_t, NothingKept) const { return {}; }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, NothingRead, NothingKept) const {
    const PoolPacks::Place p = packs.place_of(i);
    const PoolPacks::Taps ys = packs.taps_h(p.y), xs = packs.taps_w(p.x);
    const std::int64_t image = packs.input_of(p);
    Eight sum{};
    for (std::int32_t ky = ys.first; ky < ys.last; ++ky)
      for (std::int32_t kx = xs.first; kx < xs.last; ++kx) {
        const Eight v = load(read_pack(x, image + packs.input_offset(ys.origin + ky, xs.origin + kx)));
        for (int j = 0; j < pack_elements; ++j) sum.v[j] += v.v[j];
      }
    const auto places = static_cast<float>((ys.last - ys.first) * (xs.last - xs.first));
    for (float& v : sum.v) v /= places;
    store(y, i, sum);
  }
};

/// Item: element of dx.
template <class T>
struct AvgPoolBackward {
  const T* dy;
  T* dx;
  PoolShape s;
  PoolPacks packs{s, true};
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % s.channels;
    std::int64_t rest = i / s.channels;
    const std::int64_t ix = rest % s.in_w;
    rest /= s.in_w;
    const std::int64_t iy = rest % s.in_h, n = rest / s.in_h;
    const PoolReach ys = pool_reach(iy, s.pad_h, s.kernel_h, s.stride_h, s.out_h);
    const PoolReach xs = pool_reach(ix, s.pad_w, s.kernel_w, s.stride_w, s.out_w);
    float sum = 0.0f;
    for (std::int64_t oy = ys.first; oy <= ys.last; ++oy)
      for (std::int64_t ox = xs.first; ox <= xs.last; ++ox)
        sum += load(dy[((n * s.out_h + oy) * s.out_w + ox) * s.channels + c]) / pool_places(s, oy, ox);
    store(dx[i], sum);
  }

  std::int64_t pack_channels() const { return s.channels; }
  bool pack_addresses() const { return packs.fit && begin_packs(dy, dx); }
  LOCKSTEP_HOST_DEVICE NothingKept begin(std::uint32_t) const { return {}; }
  LOCKSTEP_HOST_DEVICE NothingRead read(std::uint32_t, NothingKept) const { return {}; }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, NothingRead, NothingKept) const {
    const PoolPacks::Place p = packs.place_of(i);
    const PoolPacks::Reach ys = packs.reach_h(p.y), xs = packs.reach_w(p.x);
    const std::int64_t image = packs.output_of(p);
    Eight sum{};
    for (std::int32_t oy = ys.first; oy <= ys.last; ++oy)
      for (std::int32_t ox = xs.first; ox <= xs.last; ++ox) {
        const PoolPacks::Taps h = packs.taps_h(static_cast<std::uint32_t>(oy));
        const PoolPacks::Taps w = packs.taps_w(static_cast<std::uint32_t>(ox));
        const auto places = static_cast<float>((h.last - h.first) * (w.last - w.first));
        const Eight g = load(read_pack(dy, image + packs.output_offset(oy, ox)));
        for (int j = 0; j < pack_elements; ++j) sum.v[j] += g.v[j] / places;
      }
    store(dx, i, sum);
  }
};

}  // namespace lockstep::cuda
