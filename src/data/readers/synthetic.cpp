#include "data/readers/synthetic.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <new>

#include "core/error.h"
#include "core/numerics/philox.h"
#include "device/machine_memory.h"

namespace lockstep {

namespace {

/// Which numbers are drawn: the op of the key.
enum Draw : std::uint32_t { pattern = 0, noise = 1, weights = 2, target_noise = 3 };

/// Nearly normal, mean 0, deviation 1: the sum of the word's four bytes, each uniform with variance (256^2 -
/// 1) / 12, so 4 * 5461.25 together. Small integers and one division: every machine gets the same bits.
float normal_of(std::uint32_t word) {
  const std::uint32_t sum = (word & 255) + (word >> 8 & 255) + (word >> 16 & 255) + (word >> 24);
  return (static_cast<float>(sum) - 510.0f) / 147.80054f;
}

/// Number `k` of row `row`.
float draw(PhiloxKey key, std::int64_t row, std::size_t k) {
  return normal_of(random_block(key, static_cast<std::uint64_t>(row), k / 4).v[k % 4]);
}

/// Writes `count` numbers of row `row`; calls take(k, number).
template <class Take>
void draw_row(PhiloxKey key, std::int64_t row, std::size_t count, Take take) {
  for (std::size_t k = 0; k < count; k += 4) {
    const PhiloxBlock block = random_block(key, static_cast<std::uint64_t>(row), k / 4);
    for (std::size_t j = 0; j < 4 && k + j < count; ++j) take(k + j, normal_of(block.v[j]));
  }
}

}  // namespace

MemoryContent make_synthetic(const SyntheticOptions& options) {
  if (options.samples < 1)
    throw ConfigError("data.samples must say how many samples data.format = synthetic makes");
  if ((options.classes > 0) == (options.target_width > 0)) {
    throw ConfigError("a synthetic data set has either classes or targets");
  }
  const auto key = [&](Draw what) { return random_key(options.seed, Purpose::synthetic, 0, what); };
  const auto elements = static_cast<std::size_t>(options.shape.elements());
  MemoryContent content;
  content.samples = options.samples;
  content.sample_shape = options.shape;
  content.description = fmt::format("{} synthetic samples of {}", options.samples, options.shape.text());
  content.file = "synthetic";
  std::size_t total = 0;
  try {
    if (__builtin_mul_overflow(static_cast<std::size_t>(options.samples), elements, &total) ||
        static_cast<double>(total) * sizeof(float) > machine_memory()) {
      throw std::bad_alloc();  // where the system promises more than it has, the process would be killed
    }
    content.floats.resize(total);
  } catch (const std::bad_alloc&) {
    throw ConfigError(fmt::format("data.samples = {} of data.shape = {} do not fit into memory",
                                  options.samples, options.shape.text()));
  }

  if (options.classes > 0) {
    const std::int64_t seen = std::min(options.classes, options.samples);
    std::vector<float> patterns(static_cast<std::size_t>(seen) * elements);
    for (std::int64_t c = 0; c < seen; ++c) {
      float* row = patterns.data() + static_cast<std::size_t>(c) * elements;
      draw_row(key(Draw::pattern), c, elements, [&](std::size_t k, float v) { row[k] = 0.5f * v; });
    }
    for (std::int64_t i = 0; i < options.samples; ++i) {
      const std::int64_t label = i % options.classes;
      const float* mean = patterns.data() + static_cast<std::size_t>(label) * elements;
      float* row = content.floats.data() + static_cast<std::size_t>(i) * elements;
      draw_row(key(Draw::noise), i, elements, [&](std::size_t k, float v) { row[k] = mean[k] + v; });
      content.labels.push_back(static_cast<std::int32_t>(label));
    }
    return content;
  }

  content.target_width = options.target_width;
  const auto width = static_cast<std::size_t>(options.target_width);
  std::vector<float> matrix(width * elements);
  for (std::size_t k = 0; k < width; ++k) {
    draw_row(key(Draw::weights), static_cast<std::int64_t>(k), elements,
             [&](std::size_t j, float v) { matrix[k * elements + j] = v; });
  }
  const double scale = 1.0 / std::sqrt(static_cast<double>(elements));
  for (std::int64_t i = 0; i < options.samples; ++i) {
    float* row = content.floats.data() + static_cast<std::size_t>(i) * elements;
    draw_row(key(Draw::noise), i, elements, [&](std::size_t k, float v) { row[k] = v; });
    for (std::size_t k = 0; k < width; ++k) {
      double sum = 0;
      for (std::size_t j = 0; j < elements; ++j) {
        sum += static_cast<double>(row[j]) * static_cast<double>(matrix[k * elements + j]);
      }
      content.targets.push_back(
          static_cast<float>(sum * scale + 0.1 * static_cast<double>(draw(key(Draw::target_noise), i, k))));
    }
  }
  return content;
}

}  // namespace lockstep
