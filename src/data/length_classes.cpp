#include "data/length_classes.h"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

#include "core/error.h"

namespace lockstep {

LengthClasses LengthClasses::of(const Dataset& data, std::string_view field, std::vector<std::int64_t> bounds,
                                std::int64_t window) {
  const auto found = find_field(data.fields(), field);
  require(found.has_value(), "a data set was asked for a field that it does not have");
  for (std::size_t i = 0; i < bounds.size(); ++i)
    if (bounds[i] < 1 || (i > 0 && bounds[i] <= bounds[i - 1]))
      throw ConfigError(
          fmt::format("length class {} is {}: classes must ascend from at least 1", i, bounds[i]));
  if (bounds.empty() || bounds.size() > 255)
    throw ConfigError(fmt::format("there are {} length classes: give between 1 and 255", bounds.size()));
  if (window < 1) throw ConfigError(fmt::format("a window of {} samples: give at least 1", window));
  LengthClasses classes;
  classes.window = window;
  classes.of_sample.resize(static_cast<std::size_t>(data.size()));
  for (std::int64_t i = 0; i < data.size(); ++i) {
    const std::int64_t length = data.length(*found, i);
    const auto fits = std::lower_bound(bounds.begin(), bounds.end(), length);
    if (fits == bounds.end())
      throw InputError(
          fmt::format("{}: it has {} positions, and the longest class holds {}: cut it, leave it out, "
                      "or give a longer class",
                      data.where(i), length, bounds.back()));
    classes.of_sample[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(fits - bounds.begin());
  }
  classes.bounds = std::move(bounds);
  return classes;
}

std::int64_t batches_of(const LengthClasses& classes, std::int64_t global_batch) {
  std::vector<std::int64_t> counts(classes.bounds.size());
  for (const std::uint8_t c : classes.of_sample) ++counts[c];
  std::int64_t batches = 0;
  for (const std::int64_t count : counts) batches += (count + global_batch - 1) / global_batch;
  return batches;
}

}  // namespace lockstep
