// Elementwise kernels, eight channels at once and item after item: the same bits.

#include "model/cuda/packs.h"

namespace lockstep::cuda {
namespace {

using test::drawn;
using test::expect_same_bits;

template <class T>
class CudaPacks : public testing::Test {};
TYPED_TEST_SUITE(CudaPacks, test::Formats, test::Names);

TYPED_TEST(CudaPacks, BiasRelu) {
  using T = TypeParam;
  for (const test::PackCase& c : test::pack_cases)
    for (const std::int64_t rows : test::row_counts) {
      const std::int64_t n = rows * c.channels;
      if (n > 200000) continue;
      SCOPED_TRACE(testing::Message() << c.channels << " channels, " << rows << " rows");
      auto y = drawn<T>(n, 1);
      auto bias = drawn<float>(c.channels, 2);
      for (const bool relu : {false, true})
        EXPECT_EQ(expect_same_bits<T>(
                      n, n, c.blocks,
                      [&](T* at) {
                        return BiasRelu<T>{at, bias.data(), c.channels, relu};
                      },
                      &y),
                  c.packs);
      // Without a bias, channels are of no account.
      EXPECT_EQ(expect_same_bits<T>(
                    n, n, c.blocks,
                    [&](T* at) {
                      return BiasRelu<T>{at, nullptr, c.channels, true};
                    },
                    &y),
                n >= 8);
    }
}

TYPED_TEST(CudaPacks, Elementwise) {
  using T = TypeParam;
  for (const int blocks : {1, 3})
    for (const std::int64_t n : {1, 7, 8, 13, 2048, 2055, 4096, 6150, 20001}) {
      SCOPED_TRACE(testing::Message() << n << " items, " << blocks << " blocks");
      auto a = drawn<T>(n, 1), b = drawn<T>(n, 2);
      auto wide = drawn<float>(n, 3);
      const auto check = [&](auto work) { EXPECT_EQ(expect_same_bits<T>(n, n, blocks, work), n >= 8); };
      check([&](T* y) { return Relu<T>{a.data(), y}; });
      check([&](T* y) { return ReluBackward<T>{a.data(), b.data(), y}; });
      check([&](T* y) { return Add<T>{a.data(), b.data(), y}; });
      check([&](T* y) { return Copy<T>{a.data(), y}; });
      EXPECT_EQ(expect_same_bits<T>(
                    n, n, blocks,
                    [&](T* y) {
                      return Add<T>{y, b.data(), y};
                    },
                    &a),
                n >= 8);
      if constexpr (!std::is_same_v<T, float>) {
        check([&](T* y) { return Convert<T>{wide.data(), y}; });
        EXPECT_EQ(expect_same_bits<float>(n, n, blocks,
                                          [&](float* y) {
                                            return Widen<T>{a.data(), y};
                                          }),
                  n >= 8);
      }
    }
}

// A pack is read and written whole: only where it begins at a multiple of 16 bytes.
TYPED_TEST(CudaPacks, AddressesInBetweenGoItemByItem) {
  using T = TypeParam;
  const std::int64_t n = 400, channels = 8;
  auto a = drawn<T>(n + 1, 1), b = drawn<T>(n + 1, 2);
  auto bias = drawn<float>(channels + 1, 3);
  const auto check = [&](auto work) { EXPECT_FALSE(expect_same_bits<T>(n, n + 1, 8, work)); };
  check([&](T* y) { return Add<T>{a.data() + 1, b.data(), y}; });
  check([&](T* y) { return Add<T>{a.data(), b.data() + 1, y}; });
  check([&](T* y) { return Add<T>{a.data(), b.data(), y + 1}; });
  check([&](T* y) { return ReluBackward<T>{a.data(), b.data(), y + 1}; });
  check([&](T* y) { return BiasRelu<T>{y, bias.data() + 1, channels, true}; });
}

// Numbers of items that 32 bits do not hold, and grids of which every thread stays with its channels.
TEST(CudaPackGrid, ThreadsAreAMultipleOfTheChannels) {
  const Copy<Bf16> copy{nullptr, nullptr};
  EXPECT_EQ(pack_grid(std::int64_t{1} << 34, copy, 100).packs, 0u);
  EXPECT_EQ(pack_grid((std::int64_t{1} << 34) - 8, copy, 100).packs, (1u << 31) - 1);
  EXPECT_EQ(pack_grid(7, copy, 100).packs, 0u);
  alignas(16) const float bias = 0;
  for (std::int64_t channels = 1; channels <= 4096; ++channels)
    for (const std::int64_t rows : {1, 3, 1000, 100000}) {
      const BiasRelu<Bf16> work{nullptr, &bias, channels, true};
      const PackGrid grid = pack_grid(rows * channels, work, 2112);
      ASSERT_EQ(grid.packs, channels % 8 == 0 ? rows * channels / 8 : 0) << channels;
      if (grid.packs == 0) continue;
      ASSERT_EQ(grid.channel_packs, channels / 8);
      ASSERT_EQ(std::int64_t{grid.blocks} * pack_threads % grid.channel_packs, 0);
      ASSERT_LT(grid.blocks, 2 * 2112u);
      // No more than there is to do, but for the multiple.
      ASSERT_LT(std::int64_t{grid.blocks} * pack_threads,
                grid.packs + 256 * std::int64_t{grid.channel_packs} + 256);
    }
}

TEST(CudaPackGrid, DividersDivide) {
  std::mt19937 random(1);
  const std::uint32_t largest = (1u << 31) - 1;
  std::vector<std::uint32_t> divisors = {largest, largest - 1, 1u << 30, (1u << 30) + 1, 65535, 65537};
  for (std::uint32_t d = 1; d < 3000; ++d) divisors.push_back(d);
  for (int i = 0; i < 500; ++i) divisors.push_back(static_cast<std::uint32_t>(random() % largest + 1));
  for (const std::uint32_t d : divisors) {
    const Divider divider(d);
    std::vector<std::uint32_t> numbers = {0, 1, d - 1, d, largest, largest - 1, largest / d * d};
    if (largest / d * d > 0) numbers.push_back(largest / d * d - 1);
    for (int i = 0; i < 40; ++i) numbers.push_back(static_cast<std::uint32_t>(random() & largest));
    for (std::uint32_t n : numbers) {
      ASSERT_EQ(divider.quotient(n), n / d) << n << " / " << d;
      const std::uint32_t rest = n % d;
      ASSERT_EQ(divider.take_rest(n), rest);
    }
  }
}

}  // namespace
}  // namespace lockstep::cuda
