#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "data/dataset.h"

namespace lockstep {

/// Sequences of similar length are batched together: a sample belongs to the first class whose bound is at
/// least its length. Part of what decides bits.
struct LengthClasses {
  std::vector<std::int64_t> bounds;     ///< ascending, at least 1
  std::vector<std::uint8_t> of_sample;  ///< by sample: place of its class in `bounds`
  std::int64_t window = 0;              ///< samples of the order among which batches are formed

  /// The classes of a ragged field. ConfigError: bounds that do not ascend, more than 255 of them, or a
  /// window below 1. InputError that names the first sample that is longer than the last bound.
  static LengthClasses of(const Dataset& data, std::string_view field, std::vector<std::int64_t> bounds,
                          std::int64_t window);
};

/// The batches of one epoch by class, in the order of training.
struct ClassedEpoch {
  std::vector<std::int64_t> samples;  ///< every sample once
  struct Run {
    std::int64_t first = 0;  ///< place of its first sample in `samples`
    std::int64_t count = 0;
    int length_class = 0;
  };
  std::vector<Run> batches;  ///< they tile `samples`
};

/// Walks the samples in the order `sample_at(position)`, window by window: each joins its class, and a class
/// that has a whole batch gives it. What a class has left over passes to the next window, and is closed at
/// the end of the epoch, class after class. A pure function of its arguments.
template <class SampleAt>
ClassedEpoch classed_epoch(const LengthClasses& classes, std::int64_t global_batch, SampleAt sample_at) {
  const auto samples = static_cast<std::int64_t>(classes.of_sample.size());
  ClassedEpoch epoch;
  epoch.samples.reserve(classes.of_sample.size());
  std::vector<std::vector<std::int64_t>> waiting(classes.bounds.size());
  const auto give = [&](std::size_t c, std::size_t count) {
    epoch.batches.push_back({static_cast<std::int64_t>(epoch.samples.size()),
                             static_cast<std::int64_t>(count), static_cast<int>(c)});
    epoch.samples.insert(epoch.samples.end(), waiting[c].begin(),
                         waiting[c].begin() + static_cast<std::ptrdiff_t>(count));
    waiting[c].erase(waiting[c].begin(), waiting[c].begin() + static_cast<std::ptrdiff_t>(count));
  };
  const auto whole = static_cast<std::size_t>(global_batch);
  for (std::int64_t begin = 0; begin < samples; begin += classes.window) {
    for (std::int64_t at = begin; at < begin + classes.window && at < samples; ++at) {
      const std::int64_t sample = sample_at(at);
      const std::size_t c = classes.of_sample[static_cast<std::size_t>(sample)];
      waiting[c].push_back(sample);
      if (waiting[c].size() == whole) give(c, whole);
    }
  }
  for (std::size_t c = 0; c < waiting.size(); ++c)
    if (!waiting[c].empty()) give(c, waiting[c].size());
  return epoch;
}

/// How many batches an epoch has: the same in every epoch.
std::int64_t batches_of(const LengthClasses& classes, std::int64_t global_batch);

}  // namespace lockstep
