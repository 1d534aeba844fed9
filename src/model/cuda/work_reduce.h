#pragma once

#include <cmath>
#include <cstdint>

#include "model/cuda/work_elementwise.h"

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

/// Mean and sum of squared deviations of a chunk. Two loops over a chunk, which is in the cache for the
/// second: no cancellation. Item: (chunk, channel), channels fastest.
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
};

/// Joins two sets of numbers: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
/// Computing Sample Variances", 1979, eq. 2.1.
struct Moments {
  double count = 0, mean = 0, squares = 0;
  LOCKSTEP_HOST_DEVICE void join(double n, double m, double s) {
    if (n == 0) return;
    const double total = count + n, difference = m - mean;
    mean += difference * (n / total);
    squares += s + difference * difference * (count * n / total);
    count = total;
  }
};

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
    const std::int64_t c = i % channels, group = i / channels;
    const std::int64_t last = smaller((group + 1) * chunks_per_group, plan.chunks);
    const std::int64_t rows = header->valid * pixels;
    if (given.serve(c, rows)) return;
    Moments m;
    for (std::int64_t k = group * chunks_per_group; k < last; ++k) {
      const std::int64_t n = smaller(plan.rows_per_chunk, rows - k * plan.rows_per_chunk);
      if (n > 0)
        m.join(static_cast<double>(n), static_cast<double>(mean[k * channels + c]),
               static_cast<double>(squares[k * channels + c]));
    }
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
      for (std::int64_t g = 0; g < plan.groups; ++g) {
        const std::int64_t n = smaller(per_group, rows - g * per_group);
        if (n > 0)
          m.join(static_cast<double>(n), group_mean[g * channels + c], group_squares[g * channels + c]);
      }
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
  const T* y;  ///< null: no ReLU
  const T* dy;
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
      const float g = y != nullptr && !(load(y[at]) > 0.0f) ? 0.0f : load(dy[at]);
      sum += g;
      if (x != nullptr) product += g * ((load(x[at]) - mean[c]) * inverse[c]);
    }
    sums[i] = sum;
    if (x != nullptr) products[i] = product;
  }
};

/// Adds the chunks of a group. Item: (group, channel).
struct SumGroup {
  const float* chunk;
  double* group;
  std::int64_t channels;
  ChunkPlan plan;
  GivenGradientSums given = {};
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % channels, g = i / channels;
    if (given.serve(c)) return;
    const std::int64_t last = smaller((g + 1) * chunks_per_group, plan.chunks);
    double sum = 0;
    for (std::int64_t k = g * chunks_per_group; k < last; ++k)
      sum += static_cast<double>(chunk[k * channels + c]);
    group[i] = sum;
  }
};

/// Adds the groups. Item: channel.
struct SumFinish {
  const double* group;
  float* sum;
  std::int64_t channels;
  ChunkPlan plan;
  GivenGradientSums given = {};
  const float* given_sum = nullptr;  ///< what is given of this sum
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t c) const {
    if (given.serve(c)) {
      sum[c] = given_sum[c];
      return;
    }
    double total = 0;
    for (std::int64_t g = 0; g < plan.groups; ++g) total += group[g * channels + c];
    sum[c] = static_cast<float>(total);
  }
};

}  // namespace lockstep::cuda
