#pragma once

#include <cstdint>

#include "core/numerics/augmentation.h"
#include "core/numerics/philox.h"
#include "model/cuda/kernels/packs.h"
#include "model/ops/activation/gelu_function.h"
#include "model/ops/random/dropout.h"

// Our own GPU kernels, as functions of one item: the device runs work(i) for all i in [0, n) at once, a test
// runs them in a loop on the host. Items are independent, and each writes what no other one touches, so bits
// depend on no launch shape. Images lie channels-last: (rows, height, width, channels), element ((n H + y) W
// + x) C + c.
//
// Elementwise work is ours because cuDNN would need a plan per shape for what one line says, and because
// rounding and the treatment of NaN are to be those of the CPU's kernels.

namespace lockstep::cuda {

/// What changes from slice to slice: in device memory, so that a captured graph serves every slice.
struct SliceHeader {
  std::int64_t valid = 0;
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  float loss_scale = 1.0f;  ///< where it is the host's; see SliceMemory::loss_scale
};

/// (rows, C, H, W) to channels-last. Item: element of `to`. cuDNN's transform does not convert to 16 bits on
/// the way.
template <class From, class To>
struct ToChannelsLast {
  const From* from;
  To* to;
  std::int64_t channels, pixels;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % channels, at = i / channels;
    const std::int64_t p = at % pixels, n = at / pixels;
    store(to[i], load(from[(n * channels + c) * pixels + p]));
  }
};

/// An input as it came from the host: float32 numbers, or bytes with a table of what each becomes.
struct StoredInput {
  const float* floats;
  const std::uint8_t* bytes;
  const float* table;       ///< null: floats count
  std::int64_t table_step;  ///< from channel to channel
  LOCKSTEP_HOST_DEVICE float at(std::int64_t i, std::int64_t channel) const {
    return table == nullptr ? floats[i] : table[channel * table_step + bytes[i]];
  }
};

/// The same of images that are normalised and moved on the way (core/numerics/augmentation.h): every element
/// is read here anyway, so it costs no pass over the images, neither here nor in the host's memory.
template <class To>
struct TakeImages {
  StoredInput from;
  To* to;
  const ImageMove* moves;  ///< (rows); null: they stay where they are
  const float* padding;    ///< (channels)
  std::int64_t channels;
  std::int32_t height, width;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t pixels = static_cast<std::int64_t>(height) * width;
    const std::int64_t c = i % channels, at = i / channels;
    const std::int64_t n = at / pixels;
    const auto p = static_cast<std::int32_t>(at % pixels);
    std::int32_t y = p / width, x = p % width;
    if (moves != nullptr) {
      const std::int32_t column = x;
      x = source_column(moves[n], width, column);
      y = source_row(moves[n], y);
    }
    const bool inside = y >= 0 && y < height && x >= 0 && x < width;
    const std::int64_t source = static_cast<std::int64_t>(y) * width + x;
    store(to[i], inside ? from.at((n * channels + c) * pixels + source, c) : padding[c]);
  }
};

/// Item: number.
struct CopyWholeNumbers {
  const std::int32_t* from;
  std::int32_t* to;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const { to[i] = from[i]; }
};

/// Zeros at positions beyond the length of their row. Item: element of (rows, extent, features).
template <class T>
struct ClearPadding {
  T* value;
  const std::int32_t* lengths;  ///< (rows)
  std::int64_t extent, features;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t position = i / features % extent, row = i / features / extent;
    if (position >= lengths[row]) store(value[i], 0.0f);
  }
};

/// Channels-last to (rows, C, H, W). Item: element of `to`.
template <class From, class To>
struct ToPlain {
  const From* from;
  To* to;
  std::int64_t channels, pixels;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t p = i % pixels, at = i / pixels;
    const std::int64_t c = at % channels, n = at / channels;
    store(to[i], load(from[(n * pixels + p) * channels + c]));
  }
};

/// Float32 weights to the format that products take. Item: element.
template <class To>
struct Convert {
  const float* from;
  To* to;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const { store(to[i], from[i]); }

  std::int64_t pack_channels() const { return pack_elements; }
  bool pack_addresses() const { return begin_packs(from, to); }
  LOCKSTEP_HOST_DEVICE NothingKept begin(std::uint32_t) const { return {}; }
  LOCKSTEP_HOST_DEVICE Pack<float> read(std::uint32_t i, NothingKept) const { return read_pack(from, i); }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, const Pack<float>& in, NothingKept) const {
    store(to, i, load(in));
  }
};
template <class From>
struct Widen {
  const From* from;
  float* to;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const { to[i] = load(from[i]); }

  std::int64_t pack_channels() const { return pack_elements; }
  bool pack_addresses() const { return begin_packs(from, to); }
  LOCKSTEP_HOST_DEVICE NothingKept begin(std::uint32_t) const { return {}; }
  LOCKSTEP_HOST_DEVICE Pack<From> read(std::uint32_t i, NothingKept) const { return read_pack(from, i); }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, const Pack<From>& in, NothingKept) const {
    store(to, i, load(in));
  }
};

/// NaN stays NaN.
LOCKSTEP_HOST_DEVICE inline float relu_of(float x) {
  return x < 0.0f ? 0.0f : x;
}

/// y = max(y + bias, 0) in place, either part alone too: what follows a product where the library has no
/// fused plan.
template <class T>
struct BiasRelu {
  T* y;
  const float* bias;  ///< (channels) or null
  std::int64_t channels;
  bool relu;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    float z = load(y[i]);
    if (bias != nullptr) z += bias[i % channels];
    store(y[i], relu ? relu_of(z) : z);
  }

  struct Kept {
    Eight bias;
  };
  std::int64_t pack_channels() const { return bias != nullptr ? channels : pack_elements; }
  bool pack_addresses() const { return begin_packs(y, bias); }
  LOCKSTEP_HOST_DEVICE Kept begin(std::uint32_t c) const {
    return bias != nullptr ? Kept{load_eight(bias, c)} : Kept{};
  }
  LOCKSTEP_HOST_DEVICE Pack<T> read(std::uint32_t i, const Kept&) const { return read_pack(y, i); }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, const Pack<T>& in, const Kept& kept) const {
    Eight z = load(in);
    if (bias != nullptr)
      for (int j = 0; j < pack_elements; ++j) z.v[j] += kept.bias.v[j];
    if (relu)
      for (float& v : z.v) v = relu_of(v);
    store(y, i, z);
  }
};

template <class T>
struct Relu {
  const T* x;
  T* y;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const { store(y[i], relu_of(load(x[i]))); }

  std::int64_t pack_channels() const { return pack_elements; }
  bool pack_addresses() const { return begin_packs(x, y); }
  LOCKSTEP_HOST_DEVICE NothingKept begin(std::uint32_t) const { return {}; }
  LOCKSTEP_HOST_DEVICE Pack<T> read(std::uint32_t i, NothingKept) const { return read_pack(x, i); }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, const Pack<T>& in, NothingKept) const {
    Eight z = load(in);
    for (float& v : z.v) v = relu_of(v);
    store(y, i, z);
  }
};

/// dx = dy where y > 0, else 0. dx may be dy.
template <class T>
struct ReluBackward {
  const T* y;
  const T* dy;
  T* dx;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    store(dx[i], load(y[i]) > 0.0f ? load(dy[i]) : 0.0f);
  }

  struct In {
    Pack<T> y, dy;
  };
  std::int64_t pack_channels() const { return pack_elements; }
  bool pack_addresses() const { return begin_packs(y, dy, dx); }
  LOCKSTEP_HOST_DEVICE NothingKept begin(std::uint32_t) const { return {}; }
  LOCKSTEP_HOST_DEVICE In read(std::uint32_t i, NothingKept) const {
    return {read_pack(y, i), read_pack(dy, i)};
  }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, const In& in, NothingKept) const {
    const Eight sign = load(in.y);
    Eight g = load(in.dy);
    for (int j = 0; j < pack_elements; ++j) g.v[j] = sign.v[j] > 0.0f ? g.v[j] : 0.0f;
    store(dx, i, g);
  }
};

template <class T>
struct Gelu {
  const T* x;
  T* y;  ///< may be x
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const { store(y[i], gelu_of(load(x[i]))); }

  std::int64_t pack_channels() const { return pack_elements; }
  bool pack_addresses() const { return begin_packs(x, y); }
  LOCKSTEP_HOST_DEVICE NothingKept begin(std::uint32_t) const { return {}; }
  LOCKSTEP_HOST_DEVICE Pack<T> read(std::uint32_t i, NothingKept) const { return read_pack(x, i); }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, const Pack<T>& in, NothingKept) const {
    Eight z = load(in);
    for (float& v : z.v) v = gelu_of(v);
    store(y, i, z);
  }
};

template <class T>
struct GeluSlope {
  const T* x;
  const T* dy;
  T* dx;  ///< may be dy
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    store(dx[i], load(dy[i]) * gelu_slope(load(x[i])));
  }

  struct In {
    Pack<T> x, dy;
  };
  std::int64_t pack_channels() const { return pack_elements; }
  bool pack_addresses() const { return begin_packs(x, dy, dx); }
  LOCKSTEP_HOST_DEVICE NothingKept begin(std::uint32_t) const { return {}; }
  LOCKSTEP_HOST_DEVICE In read(std::uint32_t i, NothingKept) const {
    return {read_pack(x, i), read_pack(dy, i)};
  }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, const In& in, NothingKept) const {
    const Eight at = load(in.x);
    Eight g = load(in.dy);
    for (int j = 0; j < pack_elements; ++j) g.v[j] = g.v[j] * gelu_slope(at.v[j]);
    store(dx, i, g);
  }
};

template <class T>
struct Add {
  const T* a;
  const T* b;
  T* y;  ///< may be a
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const { store(y[i], load(a[i]) + load(b[i])); }

  struct In {
    Pack<T> a, b;
  };
  std::int64_t pack_channels() const { return pack_elements; }
  bool pack_addresses() const { return begin_packs(a, b, y); }
  LOCKSTEP_HOST_DEVICE NothingKept begin(std::uint32_t) const { return {}; }
  LOCKSTEP_HOST_DEVICE In read(std::uint32_t i, NothingKept) const {
    return {read_pack(a, i), read_pack(b, i)};
  }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, const In& in, NothingKept) const {
    Eight sum = load(in.a);
    const Eight other = load(in.b);
    for (int j = 0; j < pack_elements; ++j) sum.v[j] += other.v[j];
    store(y, i, sum);
  }
};

template <class T>
struct Copy {
  const T* from;
  T* to;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const { to[i] = from[i]; }

  std::int64_t pack_channels() const { return pack_elements; }
  bool pack_addresses() const { return begin_packs(from, to); }
  LOCKSTEP_HOST_DEVICE NothingKept begin(std::uint32_t) const { return {}; }
  LOCKSTEP_HOST_DEVICE Pack<T> read(std::uint32_t i, NothingKept) const { return read_pack(from, i); }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, const Pack<T>& in, NothingKept) const {
    write_pack(to, i, in);
  }
};

struct Zero {
  float* at;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const { at[i] = 0.0f; }
};

/// The gradient of scale * loss, divided by the scale again: a power of two, so its inverse is exact.
struct Unscale {
  float* gradient;
  const float* loss_scale;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const { gradient[i] *= 1.0f / *loss_scale; }
};

/// The formula at DropoutAttrs, forward (x to y) and backward (dy to dx) alike: the mask is drawn again
/// instead of kept. Item: element of a channels-last value.
template <class T>
struct Dropout {
  const T* x;
  T* y;
  const std::int64_t* samples;  ///< (rows) global index; -1 where empty
  const SliceHeader* header;
  std::uint32_t node;
  std::uint32_t threshold;  ///< rate * 2^24, rounded up: uniform01(word) >= rate is (word >> 8) >= threshold
  float scale;              ///< 1 / (1 - rate)
  std::int64_t channels, pixels;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % channels, at = i / channels;
    const std::int64_t p = at % pixels, n = at / pixels;
    bool keep = false;
    if (samples[n] >= 0) {
      const std::int64_t e = c * pixels + p;
      const PhiloxKey key = random_key(header->seed, Purpose::dropout, header->step, node);
      const PhiloxBlock block =
          random_block(key, static_cast<std::uint64_t>(samples[n]), static_cast<std::uint64_t>(e / 4));
      keep = (block.v[e % 4] >> 8) >= threshold;
    }
    store(y[i], keep ? load(x[i]) * scale : 0.0f);
  }
};

}  // namespace lockstep::cuda
