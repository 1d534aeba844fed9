#include "data/readers/image_layout.h"

#include <algorithm>
#include <cstddef>
#include <fmt/format.h>

#include "core/counted.h"
#include "core/error.h"
#include "core/text.h"

namespace lockstep {

namespace {

constexpr std::int64_t few = 4;  // channels of a picture: grey, grey and alpha, RGB, RGBA

template <class T>
void reorder(std::vector<T>& values, const Shape& stored) {
  const auto pixels = static_cast<std::size_t>(stored[0] * stored[1]);
  const auto channels = static_cast<std::size_t>(stored[2]);
  std::vector<T> sample(pixels * channels);
  for (std::size_t begin = 0; begin < values.size(); begin += sample.size()) {
    for (std::size_t p = 0; p < pixels; ++p) {
      for (std::size_t c = 0; c < channels; ++c) sample[c * pixels + p] = values[begin + p * channels + c];
    }
    std::copy(sample.begin(), sample.end(), values.begin() + static_cast<std::ptrdiff_t>(begin));
  }
}

/// Whether the extents alone make the first axis the channels.
bool reads_channels_first(const Shape& s) {
  if (s[0] == 1 && s[2] == 1) return true;  // the same pixels either way
  const bool square_first = s[1] == s[2];   // as height and width behind the channels
  const bool square_last = s[0] == s[1];    // as height and width before them
  if (s[2] > few) return square_first || !square_last || s[0] <= few;
  return square_first && !square_last;
}

}  // namespace

bool holds_channels_last(const IdxArray& images, const ImageOptions& options) {
  if (images.dims.size() != 4) {
    if (options.order != AxisOrder::unsaid && !options.known) {
      throw ConfigError(
          fmt::format("data.layout is given, but the samples of {} have no axis of channels ({}): remove it",
                      images.origin, images.shape_text()));
    }
    return false;
  }
  const Shape stored{images.dims[1], images.dims[2], images.dims[3]};
  const Shape other{stored[2], stored[0], stored[1]};
  if (options.order != AxisOrder::unsaid) {
    const bool last = options.order == AxisOrder::channels_last;
    if (options.known && *options.known == (last ? stored : other) && stored != other)
      throw InputError(fmt::format(
          "{} holds samples of {}, which are those of the training file, {}, only with data.layout = {}",
          images.origin, stored.text(), options.known->text(), last ? "chw" : "hwc"));
    return last;
  }
  if (options.shape && (options.shape->rank() == 1 || *options.shape == stored)) return false;
  if (options.known && *options.known == stored) return false;
  const bool asked = (options.shape && *options.shape == other) || (options.known && *options.known == other);
  if (!asked && reads_channels_first(stored)) return false;
  const bool either = stored[0] <= few && stored[2] <= few;
  throw InputError(fmt::format(
      "{} holds samples of {}, which {} height x width x channels: set data.layout = hwc to take them as {} "
      "of {}x{}, or chw for {} of {}x{}",
      images.origin, stored.text(), either ? "may be channels x height x width or" : "look like",
      counted(stored[2], "channel"), stored[0], stored[1], counted(stored[0], "channel"), stored[1],
      stored[2]));
}

void to_channels_first(std::vector<std::uint8_t>& values, const Shape& stored) {
  reorder(values, stored);
}
void to_channels_first(std::vector<float>& values, const Shape& stored) {
  reorder(values, stored);
}

}  // namespace lockstep
