#pragma once

#include <cmath>
#include <cstdint>

#include "model/cuda/kernels/work_norm.h"

// Sums over the rows of a channels-last value, per channel, in a fixed order: chunks of rows in float32, then
// groups of chunks and all groups in float64. Batch norm and the gradients of biases.
//
// Batch norm is ours because its statistics leave out the empty rows of an uneven last batch, whose number a
// captured graph reads from device memory; cuDNN's batch norm takes every row. Where a convolution in front
// of it has summed its result already (GivenSums), only the channels that need it are read once more.

namespace lockstep::cuda {

/// How `rows` rows (images times pixels) are cut. A function of the shape alone, never of how many rows are
/// valid.
struct ChunkPlan {
  std::int64_t rows_per_chunk, chunks, groups;
};
inline constexpr std::int64_t chunks_per_group = 64;
LOCKSTEP_HOST_DEVICE constexpr ChunkPlan chunk_plan(std::int64_t rows) {
  std::int64_t per_chunk = 32;
  while (per_chunk * chunks_per_group * chunks_per_group < rows) per_chunk *= 2;
  const std::int64_t chunks = (rows + per_chunk - 1) / per_chunk;
  return {per_chunk, chunks, (chunks + chunks_per_group - 1) / chunks_per_group};
}
LOCKSTEP_HOST_DEVICE inline std::int64_t smaller(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}

/// What a convolution's plan has summed of its result while it wrote it: over every row, of which the empty
/// ones hold zeros and add nothing. Null pointers where it has summed nothing.
///
/// The variance is the difference of E[x^2] and mean^2, which cancel. With sums that are off by a relative e,
/// it is off by up to e (E[x^2] + 2 mean^2), which is at most 49 e of itself where mean^2 <= 16 variance. The
/// channels where it could be more are read again, in two passes, as if nothing had been summed. In float32
/// sums of many values e is about 1e-6, and 49 e far below what 16 bits round (5e-4 and 4e-3).
struct GivenSums {
  static constexpr double largest_mean_square = 16;  ///< in variances
  const float* sum = nullptr;
  const float* squares = nullptr;
  LOCKSTEP_HOST_DEVICE double mean(std::int64_t c, std::int64_t rows) const {
    return static_cast<double>(sum[c]) / static_cast<double>(rows);
  }
  LOCKSTEP_HOST_DEVICE double variance(std::int64_t c, std::int64_t rows) const {
    const double m = mean(c, rows);
    return static_cast<double>(squares[c]) / static_cast<double>(rows) - m * m;
  }
  /// Whether they do for channel c. Not where they are not finite, since float32 may have overflowed.
  LOCKSTEP_HOST_DEVICE bool serve(std::int64_t c, std::int64_t rows) const {
    if (sum == nullptr || rows <= 0 || !(squares[c] <= 3.4e38f)) return false;
    const double m = mean(c, rows);
    return squares[c] == 0.0f || m * m <= largest_mean_square * variance(c, rows);
  }
};

/// What a convolution's plan has summed, while it computed it, of the gradient g of a norm: of g, and of g
/// xhat. How it gets the second is not documented. If as the sum of g x less mean times the sum of g, that
/// cancels where the mean is far, so channels are summed again there by the rule of GivenSums.
struct GivenGradientSums {
  const float* dgamma = nullptr;  ///< null: nothing was summed
  const float* dbeta = nullptr;
  const float* mean = nullptr;
  const float* inverse = nullptr;
  LOCKSTEP_HOST_DEVICE bool serve(std::int64_t c) const {
    if (dgamma == nullptr) return false;
    const double far = static_cast<double>(mean[c]) * static_cast<double>(inverse[c]);
    return far * far <= GivenSums::largest_mean_square;
  }
};

/// Mean and sum of squared deviations of a chunk. Two loops over a chunk, so that nothing cancels. Of a large
/// layer all chunks are under way at once and do not fit into the cache: it is read twice from memory. Item:
/// (chunk, channel), channels fastest.
template <class T>
struct NormChunk {
  const T* x;
  float* mean;     ///< (chunks, channels)
  float* squares;  ///< (chunks, channels)
  const SliceHeader* header;
  std::int64_t channels, pixels;
  ChunkPlan plan;
  GivenSums given = {};
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % channels, chunk = i / channels;
    if (given.serve(c, header->valid * pixels)) return;
    const std::int64_t begin = chunk * plan.rows_per_chunk;
    const std::int64_t end = smaller(begin + plan.rows_per_chunk, header->valid * pixels);
    float sum = 0.0f, off = 0.0f;
    for (std::int64_t r = begin; r < end; ++r) sum += load(x[r * channels + c]);
    const float middle = end > begin ? sum / static_cast<float>(end - begin) : 0.0f;
    for (std::int64_t r = begin; r < end; ++r) {
      const float d = load(x[r * channels + c]) - middle;
      off += d * d;
    }
    mean[i] = middle;
    squares[i] = off;
  }

  struct Kept {
    std::uint32_t channel_pack;
    bool served;  ///< all eight
  };
  std::int64_t pack_channels() const { return channels; }
  bool pack_addresses() const { return begin_packs(x) && begin_packs(mean, squares); }
  LOCKSTEP_HOST_DEVICE Kept begin(std::uint32_t c) const {
    Kept kept{c, given.sum != nullptr};
    if (kept.served)
      for (std::int64_t j = 0; j < pack_elements; ++j)
        kept.served = kept.served && given.serve(c * std::int64_t{pack_elements} + j, header->valid * pixels);
    return kept;
  }
  LOCKSTEP_HOST_DEVICE NothingRead read(std::uint32_t, const Kept&) const { return {}; }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, NothingRead, const Kept& kept) const {
    if (kept.served) return;
    const std::int64_t chunk = i / static_cast<std::uint32_t>(channels / pack_elements);
    const std::int64_t begin = chunk * plan.rows_per_chunk;
    const auto rows = static_cast<std::int32_t>(
        smaller(plan.rows_per_chunk, header->valid * pixels - begin));  // below 1: none
    const T* first = x + begin * channels + std::int64_t{kept.channel_pack} * pack_elements;
    Eight middle{}, off{};
    const T* row = first;
    LOCKSTEP_UNROLL(8)
    for (std::int32_t r = 0; r < rows; ++r, row += channels) {
      const Eight v = load(read_pack(row, 0));
      for (int j = 0; j < pack_elements; ++j) middle.v[j] += v.v[j];
    }
    for (float& m : middle.v) m = rows > 0 ? m / static_cast<float>(rows) : 0.0f;
    row = first;
    LOCKSTEP_UNROLL(8)
    for (std::int32_t r = 0; r < rows; ++r, row += channels) {
      const Eight v = load(read_pack(row, 0));
      for (int j = 0; j < pack_elements; ++j) {
        const float d = v.v[j] - middle.v[j];
        off.v[j] += d * d;
      }
    }
    store(mean, i, middle);
    store(squares, i, off);
  }
};

/// How many numbers, their mean and the sum of their squared deviations.
struct Moments {
  double count = 0, mean = 0, squares = 0;
};
/// What `sets` sets of numbers are together, of which set k holds numbers [k per_set, (k + 1) per_set) of
/// `numbers`; `stride` from one to the next. The mean first, then the deviations from it: nothing cancels,
/// and nothing is divided for each set, as it would be where they are joined one by one. Sums in float64,
/// eight over every eighth set, then along a tree.
template <class Sum>
LOCKSTEP_HOST_DEVICE inline Moments join(const Sum* mean, const Sum* squares, std::int64_t stride,
                                         std::int64_t sets, std::int64_t per_set, std::int64_t numbers) {
  if (numbers <= 0 || sets <= 0) return {};
  numbers = smaller(numbers, sets * per_set);
  sets = smaller(sets, (numbers + per_set - 1) / per_set);
  const auto full = static_cast<double>(per_set);
  const auto last = static_cast<double>(numbers - (sets - 1) * per_set);
  const auto count = static_cast<double>(numbers);
  const auto eighths = [&](const auto& term) {
    double part[8] = {};
    for (std::int64_t k = 0; k < sets; k += 8)
      for (int j = 0; j < 8; ++j) {
        const std::int64_t set = smaller(k + j, sets - 1);
        const double found = term(set * stride, set + 1 < sets ? full : last);
        part[j] += k + j < sets ? found : 0.0;
      }
    return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
  };
  const double middle =
      eighths([&](std::int64_t at, double n) { return n * static_cast<double>(mean[at]); }) / count;
  const double off = eighths([&](std::int64_t at, double n) {
    const double d = static_cast<double>(mean[at]) - middle;
    return static_cast<double>(squares[at]) + n * (d * d);
  });
  return {count, middle, off};
}

/// Item: (group, channel).
struct NormGroup {
  const float* mean;
  const float* squares;
  double* group_mean;     ///< (groups, channels)
  double* group_squares;  ///< (groups, channels)
  const SliceHeader* header;
  std::int64_t channels, pixels;
  ChunkPlan plan;
  GivenSums given = {};
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % channels, first = i / channels * chunks_per_group;
    const std::int64_t rows = header->valid * pixels;
    if (given.serve(c, rows)) return;
    const std::int64_t at = first * channels + c;
    const Moments m = join(mean + at, squares + at, channels, smaller(chunks_per_group, plan.chunks - first),
                           plan.rows_per_chunk, rows - first * plan.rows_per_chunk);
    group_mean[i] = m.mean;
    group_squares[i] = m.squares;
  }
};

/// Mean and 1 / deviation for the op, and the statistics' segments of the flat gradient: valid rows times
/// mean, and times the unbiased variance (of one value: 0). Item: channel.
struct NormFinish {
  const double* group_mean;
  const double* group_squares;
  float* mean;
  float* inverse;
  float* sum_of_means;      ///< in the flat gradient
  float* sum_of_variances;  ///< in the flat gradient
  const SliceHeader* header;
  std::int64_t channels, pixels;
  double epsilon;
  ChunkPlan plan;
  GivenSums given = {};
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t c) const {
    const std::int64_t rows = header->valid * pixels, per_group = plan.rows_per_chunk * chunks_per_group;
    Moments m;
    if (given.serve(c, rows)) {
      const double count = static_cast<double>(rows);
      m = {count, given.mean(c, rows), given.variance(c, rows) * count};
    } else {
      m = join(group_mean + c, group_squares + c, channels, plan.groups, per_group, rows);
    }
    const double variance = m.count > 0 ? m.squares / m.count : 0.0;
    const double unbiased = m.count > 1 ? m.squares / (m.count - 1) : 0.0;
    mean[c] = static_cast<float>(m.mean);
    inverse[c] = static_cast<float>(1.0 / sqrt(variance + epsilon));
    const double weight = static_cast<double>(header->valid);
    sum_of_means[c] = static_cast<float>(weight * m.mean);
    sum_of_variances[c] = static_cast<float>(weight * unbiased);
  }
};

/// Sums of dy and of dy (x - mean) / deviation over a chunk, dy being 0 where a fused ReLU gave 0. Without x
/// only the first: the gradient of a bias. Item: (chunk, channel).
template <class T>
struct GradientChunk {
  const T* x;  ///< null: only the first sum
  const T* dy;
  ReluSign<T> sign;
  const float* mean;
  const float* inverse;
  float* sums;      ///< (chunks, channels)
  float* products;  ///< (chunks, channels), with x
  const SliceHeader* header;
  std::int64_t channels, pixels;
  ChunkPlan plan;
  GivenGradientSums given = {};
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % channels, chunk = i / channels;
    if (given.serve(c)) return;
    const std::int64_t begin = chunk * plan.rows_per_chunk;
    const std::int64_t end = smaller(begin + plan.rows_per_chunk, header->valid * pixels);
    float sum = 0.0f, product = 0.0f;
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t at = r * channels + c;
      const float g = x != nullptr ? sign.mask(load(dy[at]), load(x[at]), mean, inverse, c) : load(dy[at]);
      sum += g;
      if (x != nullptr) product += g * ((load(x[at]) - mean[c]) * inverse[c]);
    }
    sums[i] = sum;
    if (x != nullptr) products[i] = product;
  }

  struct Kept {
    std::uint32_t channel_pack;
    bool served;  ///< all eight
    Eight mean, inverse;
    typename ReluSign<T>::Kept sign;
  };
  std::int64_t pack_channels() const { return channels; }
  bool pack_addresses() const {
    return begin_packs(x, dy) && begin_packs(mean, inverse, sums, products) && sign.pack_addresses();
  }
  LOCKSTEP_HOST_DEVICE Kept begin(std::uint32_t c) const {
    Kept kept{c, given.dgamma != nullptr, {}, {}, {}};
    if (x != nullptr)
      kept = {c, kept.served, load_eight(mean, c), load_eight(inverse, c),
              sign.begin(c, load_eight(inverse, c))};
    if (kept.served)
      for (std::int64_t j = 0; j < pack_elements; ++j)
        kept.served = kept.served && given.serve(c * std::int64_t{pack_elements} + j);
    return kept;
  }
  LOCKSTEP_HOST_DEVICE NothingRead read(std::uint32_t, const Kept&) const { return {}; }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, NothingRead, const Kept& kept) const {
    if (kept.served) return;
    const auto channel_packs = static_cast<std::uint32_t>(channels / pack_elements);
    const std::int64_t begin = i / channel_packs * plan.rows_per_chunk;
    const auto rows = static_cast<std::int32_t>(
        smaller(plan.rows_per_chunk, header->valid * pixels - begin));  // below 1: none
    Eight sum{}, product{};
    std::int64_t at = begin * channel_packs + kept.channel_pack;
    if (x == nullptr) {
      for (std::int32_t r = 0; r < rows; ++r, at += channel_packs) {
        const Eight g = load(read_pack(dy, at));
        for (int j = 0; j < pack_elements; ++j) sum.v[j] += g.v[j];
      }
      store(sums, i, sum);
      return;
    }
    if (sign.gamma != nullptr)
      add_rows<true>(at, rows, channel_packs, kept, sum, product);
    else
      add_rows<false>(at, rows, channel_packs, kept, sum, product);
    store(sums, i, sum);
    store(products, i, product);
  }

 private:
  template <bool relu>
  LOCKSTEP_HOST_DEVICE void add_rows(std::int64_t at, std::int32_t rows, std::uint32_t channel_packs,
                                     const Kept& kept, Eight& sum, Eight& product) const {
    LOCKSTEP_UNROLL(4)
    for (std::int32_t r = 0; r < rows; ++r, at += channel_packs) {
      const Eight from = load(read_pack(x, at));
      Eight g = load(read_pack(dy, at));
      if constexpr (relu) g = sign.mask(g, from, kept.mean, kept.sign);
      for (int j = 0; j < pack_elements; ++j) {
        sum.v[j] += g.v[j];
        product.v[j] += g.v[j] * ((from.v[j] - kept.mean.v[j]) * kept.inverse.v[j]);
      }
    }
  }
};

/// Adds the chunks of a group, of one or two sums. Item: (sum, group, channel).
struct SumGroup {
  const float* chunk[2];
  double* group[2];
  std::int64_t channels;
  ChunkPlan plan;
  GivenGradientSums given = {};
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t which = i / (plan.groups * channels), at = i - which * plan.groups * channels;
    const std::int64_t c = at % channels, g = at / channels;
    if (given.serve(c)) return;
    const std::int64_t last = smaller((g + 1) * chunks_per_group, plan.chunks);
    const float* from = which == 0 ? chunk[0] : chunk[1];
    double sum = 0;
    for (std::int64_t k = g * chunks_per_group; k < last; ++k)
      sum += static_cast<double>(from[k * channels + c]);
    (which == 0 ? group[0] : group[1])[at] = sum;
  }
};

/// Adds the groups, of one or two sums. Item: (sum, channel).
struct SumFinish {
  const double* group[2];
  float* sum[2];
  std::int64_t channels;
  ChunkPlan plan;
  GivenGradientSums given = {};  ///< of the first sum dbeta, of the second dgamma
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t which = i / channels, c = i - which * channels;
    float* to = which == 0 ? sum[0] : sum[1];
    if (given.serve(c)) {
      to[c] = which == 0 ? given.dbeta[c] : given.dgamma[c];
      return;
    }
    const double* from = which == 0 ? group[0] : group[1];
    double total = 0;
    for (std::int64_t g = 0; g < plan.groups; ++g) total += from[g * channels + c];
    to[c] = static_cast<float>(total);
  }
};

}  // namespace lockstep::cuda
