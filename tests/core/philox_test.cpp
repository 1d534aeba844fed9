#include "core/numerics/philox.h"

#include <cmath>
#include <gtest/gtest.h>
#include <set>
#include <tuple>

namespace lockstep {
namespace {

struct KnownAnswer {
  std::uint32_t counter[4];
  PhiloxKey key;
  std::uint32_t expected[4];
};

// The vectors for philox4x32-10 that its authors publish with Random123.
TEST(Philox, GivesTheAuthorsKnownAnswers) {
  const KnownAnswer vectors[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const KnownAnswer& v : vectors) {
    const PhiloxBlock b = philox4x32(v.key, v.counter[0], v.counter[1], v.counter[2], v.counter[3]);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(b.v[i], v.expected[i]) << "word " << i;
  }
}

TEST(Philox, IsAConstantExpression) {
  static_assert(philox4x32({0, 0}, 0, 0, 0, 0).v[0] == 0x6627e8d5);
  SUCCEED();
}

TEST(Philox, EveryPartOfTheKeyCounts) {
  std::set<std::tuple<std::uint32_t, std::uint32_t>> keys;
  std::size_t count = 0;
  const std::uint64_t wide[] = {0, 1, std::uint64_t{1} << 32, ~std::uint64_t{0}};
  for (const std::uint64_t seed : wide) {
    for (const Purpose purpose : {Purpose::init, Purpose::shuffle, Purpose::split, Purpose::dropout,
                                  Purpose::augment, Purpose::synthetic}) {
      for (const std::uint64_t step : wide) {
        for (const std::uint32_t op : {0u, 1u, 7u}) {
          const PhiloxKey key = random_key(seed, purpose, step, op);
          keys.emplace(key.k0, key.k1);
          ++count;
        }
      }
    }
  }
  EXPECT_EQ(keys.size(), count);
}

TEST(Philox, SampleAndBlockUseTheirUpperHalves) {
  const PhiloxKey key{1, 2};
  std::set<std::uint32_t> words;
  for (const std::uint64_t high : {std::uint64_t{0}, std::uint64_t{1} << 32}) {
    words.insert(random_block(key, high, 5).v[0]);
    words.insert(random_block(key, 5, high).v[0]);
  }
  EXPECT_EQ(words.size(), 4u);
}

TEST(Philox, UniformNumbersStayInsideTheirIntervals) {
  EXPECT_EQ(uniform01(0), 0.0f);
  EXPECT_LT(uniform01(0xffffffff), 1.0f);
  EXPECT_EQ(uniform01(0x80000000), 0.5f);
  EXPECT_GT(uniform_open(0), 0.0);
  EXPECT_LT(uniform_open(0xffffffff), 1.0);
  EXPECT_TRUE(std::isfinite(std::log(uniform_open(0))));
}

TEST(Philox, UniformNumbersHaveTheMomentsOfTheUniformDistribution) {
  const PhiloxKey key = random_key(17, Purpose::init, 0, 3);
  constexpr int n = 1 << 16;
  double sum = 0, squares = 0;
  for (int i = 0; i < n; ++i) {
    const double u = uniform01(random_block(key, static_cast<std::uint64_t>(i / 4), 0).v[i % 4]);
    sum += u;
    squares += u * u;
  }
  // Five standard deviations: sqrt(1/12/n) of the mean, sqrt(4/45/n) of the second moment.
  EXPECT_NEAR(sum / n, 0.5, 5 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(squares / n, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / n));
}

}  // namespace
}  // namespace lockstep
