#pragma once

#include <cstdint>

#include "model/cuda/kernels/work_reduce.h"

// The gradient behind a norm to which a residual was added, and a ReLU: what comes from two readers is added,
// masked, summed for the norm's parameters, and written once. It is the residual's gradient, too.

namespace lockstep::cuda {

/// g = dy (+ more) where y > 0, else 0, and the sums of g and of g (x - mean) / deviation over a chunk. The
/// sum of the two is rounded as if it had been stored. Empty rows get 0. Item: (chunk, channel).
template <class T>
struct ResidualChunk {
  const T* x;
  const T* y;
  const T* more;  ///< may be null
  T* g;           ///< dy before
  const float* mean;
  const float* inverse;
  float* sums;      ///< (chunks, channels)
  float* products;  ///< (chunks, channels)
  const SliceHeader* header;
  std::int64_t channels, pixels, rows;  ///< rows: of pixels, the empty ones too
  ChunkPlan plan;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % channels, begin = i / channels * plan.rows_per_chunk;
    const std::int64_t end = smaller(begin + plan.rows_per_chunk, rows), valid = header->valid * pixels;
    float sum = 0.0f, product = 0.0f;
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t at = r * channels + c;
      if (r >= valid) {
        store(g[at], 0.0f);
        continue;
      }
      float d = load(g[at]);
      if (more != nullptr) d = as_stored<T>(d + load(more[at]));
      d = !(load(y[at]) > 0.0f) ? 0.0f : d;
      store(g[at], d);
      sum += d;
      product += d * ((load(x[at]) - mean[c]) * inverse[c]);
    }
    sums[i] = sum;
    products[i] = product;
  }

  struct Kept {
    std::uint32_t channel_pack;
    Eight mean, inverse;
  };
  std::int64_t pack_channels() const { return channels; }
  bool pack_addresses() const {
    return begin_packs(x, y, more, g) && begin_packs(mean, inverse, sums, products);
  }
  LOCKSTEP_HOST_DEVICE Kept begin(std::uint32_t c) const {
    return {c, load_eight(mean, c), load_eight(inverse, c)};
  }
  LOCKSTEP_HOST_DEVICE NothingRead read(std::uint32_t, const Kept&) const { return {}; }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, NothingRead, const Kept& kept) const {
    const auto channel_packs = static_cast<std::uint32_t>(channels / pack_elements);
    const std::int64_t begin = i / channel_packs * plan.rows_per_chunk;
    const auto all = static_cast<std::int32_t>(smaller(plan.rows_per_chunk, rows - begin));
    const auto valid = static_cast<std::int32_t>(smaller(all, header->valid * pixels - begin));
    std::int64_t at = begin * channel_packs + kept.channel_pack;
    Eight sum{}, product{};
    std::int32_t r = 0;
    // Rows are written where others are read from, so a compiler does not read ahead.
    for (; r + 1 < valid; r += 2, at += 2 * channel_packs) {
      const Row first = read_row(at), second = read_row(at + channel_packs);
      add_row(first, at, kept, sum, product);
      add_row(second, at + channel_packs, kept, sum, product);
    }
    for (; r < all; ++r, at += channel_packs) {
      if (r < valid)
        add_row(read_row(at), at, kept, sum, product);
      else
        store(g, at, Eight{});
    }
    store(sums, i, sum);
    store(products, i, product);
  }

 private:
  struct Row {
    Pack<T> x, y, g, more;
  };
  LOCKSTEP_HOST_DEVICE Row read_row(std::int64_t at) const {
    return {read_pack(x, at), read_pack(y, at), read_pack(static_cast<const T*>(g), at),
            more != nullptr ? read_pack(more, at) : Pack<T>{}};
  }
  LOCKSTEP_HOST_DEVICE void add_row(const Row& row, std::int64_t at, const Kept& kept, Eight& sum,
                                    Eight& product) const {
    Eight d = load(row.g);
    if (more != nullptr) {
      const Eight other = load(row.more);
      for (int j = 0; j < pack_elements; ++j) d.v[j] += other.v[j];
      d = load(packed<T>(d));
    }
    const Eight from = load(row.x), sign = load(row.y);
    for (int j = 0; j < pack_elements; ++j) {
      d.v[j] = !(sign.v[j] > 0.0f) ? 0.0f : d.v[j];
      sum.v[j] += d.v[j];
      product.v[j] += d.v[j] * ((from.v[j] - kept.mean.v[j]) * kept.inverse.v[j]);
    }
    store(g, at, d);
  }
};

}  // namespace lockstep::cuda
