#include "core/numerics/permutation.h"

#include <cmath>
#include <cstdint>
#include <gtest/gtest.h>
#include <vector>

namespace lockstep {
namespace {

PhiloxKey shuffle_key(std::uint64_t seed, std::uint64_t epoch) {
  return random_key(seed, Purpose::shuffle, epoch, 0);
}

class PermutationOf : public testing::TestWithParam<std::uint64_t> {};

TEST_P(PermutationOf, HitsEveryIndexExactlyOnce) {
  const std::uint64_t n = GetParam();
  for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
    const Permutation p(shuffle_key(1, epoch), n);
    ASSERT_EQ(p.size(), n);
    std::vector<int> seen(n, 0);
    for (std::uint64_t i = 0; i < n; ++i) {
      const std::uint64_t image = p(i);
      ASSERT_LT(image, n);
      ++seen[image];
    }
    for (std::uint64_t i = 0; i < n; ++i) ASSERT_EQ(seen[i], 1) << "index " << i << " of " << n;
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, PermutationOf,
                         testing::Values(0, 1, 2, 3, 4, 5, 7, 13, 16, 17, 31, 64, 65, 97, 127, 255, 256, 257,
                                         1000, 1009, 4095, 4096, 4097, 7919, 50000, 60000, 65535, 65536,
                                         65537, 104729));

TEST(Permutation, HitsEveryIndexOnceForAllSmallSizes) {
  for (std::uint64_t n = 0; n <= 300; ++n) {
    const Permutation p(shuffle_key(n, 9), n);
    std::vector<bool> seen(n, false);
    for (std::uint64_t i = 0; i < n; ++i) {
      ASSERT_LT(p(i), n);
      ASSERT_FALSE(seen[p(i)]) << n;
      seen[p(i)] = true;
    }
  }
}

TEST(Permutation, IsAFunctionOfTheKeyAlone) {
  const Permutation a(shuffle_key(3, 4), 60000), b(shuffle_key(3, 4), 60000);
  for (std::uint64_t i = 0; i < 60000; i += 7) ASSERT_EQ(a(i), b(i));
}

TEST(Permutation, DiffersBySeedAndByEpoch) {
  const std::uint64_t n = 60000;
  const Permutation base(shuffle_key(1, 0), n);
  for (const Permutation& other : {Permutation(shuffle_key(2, 0), n), Permutation(shuffle_key(1, 1), n)}) {
    int same = 0;
    for (std::uint64_t i = 0; i < n; ++i) same += base(i) == other(i);
    // Two random permutations agree in a Poisson(1) number of places: more than 12 has probability 6e-11.
    EXPECT_LE(same, 12);
  }
}

TEST(Permutation, SpreadsEveryPositionEvenlyOverTheIndices) {
  constexpr std::uint64_t n = 10, keys = 20000;
  std::vector<std::vector<int>> count(n, std::vector<int>(n, 0));
  for (std::uint64_t k = 0; k < keys; ++k) {
    const Permutation p(shuffle_key(5, k), n);
    for (std::uint64_t i = 0; i < n; ++i) ++count[i][p(i)];
  }
  const double expected = static_cast<double>(keys) / n;
  for (const std::vector<int>& row : count) {
    double chi_squared = 0;
    for (const int c : row) chi_squared += (c - expected) * (c - expected) / expected;
    // 9 degrees of freedom; a sound permutation passes 45 once in a million.
    EXPECT_LT(chi_squared, 45.0);
  }
}

TEST(Permutation, WorksAtTheEndOfTheRange) {
  for (const std::uint64_t n :
       {(std::uint64_t{1} << 40) + 1, (std::uint64_t{1} << 62) + 1, ~std::uint64_t{0}}) {
    const Permutation p(shuffle_key(1, 1), n);
    EXPECT_LT(p(0), n);
    EXPECT_LT(p(n - 1), n);
    EXPECT_NE(p(0), p(n - 1));
  }
}

}  // namespace
}  // namespace lockstep
