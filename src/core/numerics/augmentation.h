#pragma once

#include <cstdint>

#include "core/numerics/philox.h"

// How training varies images, as functions of numbers alone: the loader's threads and the GPU's kernel call
// the same ones, so that it changes no bit who carries it out.

namespace lockstep {

/// What is done to every image of a training.
struct Augmentation {
  bool flip = false;              ///< mirrored left to right, with probability 1/2
  std::int32_t crop_padding = 0;  ///< cropped to its own size out of the image with so many pixels around it
  std::uint64_t seed = 0;
  constexpr bool any() const { return flip || crop_padding > 0; }
};

/// What is done to one image: the crop begins `dy` rows below and `dx` columns to the right of the image's
/// first pixel (both in [-crop_padding, crop_padding]) and is then mirrored, if it is.
struct ImageMove {
  std::int32_t dy = 0;
  std::int32_t dx = 0;
  bool flip = false;
};

/// The key of all moves of one epoch.
LOCKSTEP_HOST_DEVICE constexpr PhiloxKey augmentation_key(const Augmentation& a, std::int64_t epoch) {
  return random_key(a.seed, Purpose::augment, static_cast<std::uint64_t>(epoch), 0);
}

/// Uniform in [0, n), by the upper half of a product; no value is more likely than another by more than n
/// parts in 2^32.
LOCKSTEP_HOST_DEVICE constexpr std::uint32_t uniform_below(std::uint32_t word, std::uint32_t n) {
  return static_cast<std::uint32_t>((std::uint64_t{word} * n) >> 32);
}

/// The move of a sample. Each part has a word of its own, so that one may be switched off and the other stays
/// what it was.
LOCKSTEP_HOST_DEVICE constexpr ImageMove image_move(const Augmentation& a, PhiloxKey key,
                                                    std::int64_t sample) {
  const PhiloxBlock words = random_block(key, static_cast<std::uint64_t>(sample), 0);
  const auto places = static_cast<std::uint32_t>(2 * a.crop_padding + 1);
  ImageMove move;
  move.flip = a.flip && (words.v[0] >> 31) != 0;
  move.dy = static_cast<std::int32_t>(uniform_below(words.v[1], places)) - a.crop_padding;
  move.dx = static_cast<std::int32_t>(uniform_below(words.v[2], places)) - a.crop_padding;
  return move;
}

/// The row, and the column, of the image that pixel (y, x) of the moved image shows; outside [0, height) or
/// [0, width) it shows padding.
LOCKSTEP_HOST_DEVICE constexpr std::int32_t source_row(const ImageMove& move, std::int32_t y) {
  return y + move.dy;
}
LOCKSTEP_HOST_DEVICE constexpr std::int32_t source_column(const ImageMove& move, std::int32_t width,
                                                          std::int32_t x) {
  return (move.flip ? width - 1 - x : x) + move.dx;
}

}  // namespace lockstep
