#include "core/numerics/augmentation.h"

#include <array>
#include <cmath>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <tuple>
#include <vector>

namespace lockstep {
namespace {

Augmentation both(std::int32_t padding, std::uint64_t seed = 1) {
  return {true, padding, seed};
}

std::tuple<int, int, bool> numbers(const ImageMove& m) {
  return {m.dy, m.dx, m.flip};
}

std::vector<std::tuple<int, int, bool>> moves(const Augmentation& a, std::int64_t epoch, std::int64_t n) {
  const PhiloxKey key = augmentation_key(a, epoch);
  std::vector<std::tuple<int, int, bool>> out;
  for (std::int64_t i = 0; i < n; ++i) out.push_back(numbers(image_move(a, key, i)));
  return out;
}

/// Each of `cells` equally likely outcomes was seen about as often: chi squared, whose mean is cells - 1 and
/// whose variance is twice that, within five deviations.
void expect_uniform(const std::vector<std::int64_t>& seen, std::int64_t draws) {
  const double want = static_cast<double>(draws) / static_cast<double>(seen.size());
  double chi = 0;
  for (const std::int64_t n : seen) chi += std::pow(static_cast<double>(n) - want, 2) / want;
  const double freedom = static_cast<double>(seen.size()) - 1;
  EXPECT_LT(std::abs(chi - freedom), 5 * std::sqrt(2 * freedom)) << seen.size() << " outcomes";
}

TEST(Augmentation, MovesAreBoundedAndAllEquallyLikelyTogether) {
  constexpr std::int64_t draws = 200'000;
  for (const std::int32_t padding : {1, 4}) {
    const Augmentation a = both(padding);
    const auto places = static_cast<std::size_t>(2 * padding + 1);
    std::vector<std::int64_t> seen(2 * places * places);
    const PhiloxKey key = augmentation_key(a, 3);
    for (std::int64_t i = 0; i < draws; ++i) {
      const ImageMove m = image_move(a, key, i);
      ASSERT_LE(std::abs(m.dy), padding);
      ASSERT_LE(std::abs(m.dx), padding);
      const auto y = static_cast<std::size_t>(m.dy + padding), x = static_cast<std::size_t>(m.dx + padding);
      ++seen[(y * places + x) * 2 + (m.flip ? 1 : 0)];
    }
    expect_uniform(seen, draws);
  }
}

TEST(Augmentation, TheSameSampleMovesAnewInEveryEpoch) {
  std::vector<std::int64_t> seen(9);
  constexpr std::int64_t epochs = 20'000;
  for (std::int64_t e = 0; e < epochs; ++e) {
    const Augmentation a = both(1);
    const ImageMove m = image_move(a, augmentation_key(a, e), 17);
    ++seen[static_cast<std::size_t>((m.dy + 1) * 3 + m.dx + 1)];
  }
  expect_uniform(seen, epochs);
}

TEST(Augmentation, WhatIsOffDoesNothingAndLeavesTheOtherAlone) {
  const auto all = moves(both(4), 2, 500);
  const auto flips = moves({true, 0, 1}, 2, 500), crops = moves({false, 4, 1}, 2, 500);
  const auto none = moves({false, 0, 1}, 2, 500);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto [dy, dx, flip] = all[i];
    EXPECT_EQ(flips[i], std::tuple(0, 0, flip));
    EXPECT_EQ(crops[i], std::tuple(dy, dx, false));
    EXPECT_EQ(none[i], std::tuple(0, 0, false));
  }
  EXPECT_FALSE((Augmentation{false, 0, 9}.any()));
  EXPECT_TRUE((Augmentation{true, 0, 0}.any()));
  EXPECT_TRUE((Augmentation{false, 1, 0}.any()));
}

TEST(Augmentation, SeedAndEpochAndSampleCount) {
  const auto first = moves(both(4), 0, 200);
  EXPECT_EQ(moves(both(4), 0, 200), first);
  EXPECT_NE(moves(both(4), 1, 200), first);
  EXPECT_NE(moves(both(4), std::int64_t{1} << 32, 200), first);
  EXPECT_NE(moves(both(4, 2), 0, 200), first);
  EXPECT_GT((std::set(first.begin(), first.end()).size()), 100u);
}

// A run that was begun by another version goes on with the same images, or the numbers below change.
TEST(Augmentation, NumbersArePinned) {
  const auto m = moves(both(4, 7), 5, 6);
  const std::vector<std::tuple<int, int, bool>> pinned = {{0, 0, false},  {3, -4, true},  {-1, 3, true},
                                                          {4, -2, false}, {-1, 1, false}, {4, 3, false}};
  EXPECT_EQ(m, pinned);
}

TEST(Augmentation, UniformBelowReachesBothEnds) {
  static_assert(uniform_below(0, 9) == 0);
  static_assert(uniform_below(0xffffffffu, 9) == 8);
  static_assert(uniform_below(0x80000000u, 2) == 1);
  static_assert(uniform_below(0x7fffffffu, 2) == 0);
  static_assert(uniform_below(0xffffffffu, 1) == 0);
  SUCCEED();
}

// Pad by hand, crop by hand, mirror by hand.
TEST(Augmentation, AMovedPixelIsThatOfThePaddedCroppedAndMirroredImage) {
  constexpr int height = 5, width = 7, padding = 3;
  constexpr int high = height + 2 * padding, wide = width + 2 * padding;
  std::array<int, high * wide> padded;
  padded.fill(-1);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) padded[(y + padding) * wide + x + padding] = y * width + x;
  for (int dy = -padding; dy <= padding; ++dy)
    for (int dx = -padding; dx <= padding; ++dx)
      for (const bool flip : {false, true})
        for (int y = 0; y < height; ++y)
          for (int x = 0; x < width; ++x) {
            std::array<int, width> row;
            for (int k = 0; k < width; ++k) row[k] = padded[(padding + dy + y) * wide + padding + dx + k];
            const int want = flip ? row[width - 1 - x] : row[x];
            const ImageMove move{dy, dx, flip};
            const int r = source_row(move, y), c = source_column(move, width, x);
            const bool inside = r >= 0 && r < height && c >= 0 && c < width;
            ASSERT_EQ(inside ? r * width + c : -1, want);
          }
}

}  // namespace
}  // namespace lockstep
