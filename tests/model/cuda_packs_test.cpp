// Kernels carried out eight channels at once, against the same kernels item after item: the same bits.

#include <bit>
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>
#include <random>

#include "model/cuda_host_machine.h"

namespace lockstep::cuda {
namespace {

using test::HostMachine;

template <class T>
struct Name;
template <>
struct Name<float> {
  static constexpr const char* text = "float32";
};
template <>
struct Name<Bf16> {
  static constexpr const char* text = "bfloat16";
};
template <>
struct Name<Fp16> {
  static constexpr const char* text = "float16";
};

/// Memory that begins at a multiple of 16 bytes, with something behind it that must not be touched.
template <class T>
class Values {
 public:
  static constexpr std::size_t behind = 32;
  explicit Values(std::int64_t n) : all_(static_cast<std::size_t>(n) + behind) {
    std::memset(static_cast<void*>(all_.data()), 0x5a, all_.size() * sizeof(T));
  }
  T* data() { return all_.data(); }
  const std::vector<T>& all() const { return all_; }

 private:
  std::vector<T> all_;
};

/// Ordinary numbers, and now and then what rounding and comparisons treat in another way.
template <class T>
Values<T> drawn(std::int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.3f, 2.0f);
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> odd = {0.0f,    -0.0f, infinity, -infinity, std::nanf(""), 1e-39f,
                                  -1e-40f, 6e-8f, 3e-8f,    3.3e38f,   65519.0f,      1e30f};
  Values<T> out(n);
  for (std::int64_t i = 0; i < n; ++i)
    store(out.data()[i], random() % 16 == 0 ? odd[random() % odd.size()] : normal(random));
  return out;
}

template <class T>
bool same(const T& a, const T& b) {
  if constexpr (std::is_same_v<T, float>) {
    if (std::isnan(a) && std::isnan(b)) return true;  // of which NaN, float32 promises nothing
  }
  return std::memcmp(&a, &b, sizeof a) == 0;
}

/// Carries out `work_on(out)` over n items in both ways. Returns whether it was done in packs.
template <class Out, class WorkOn>
bool expect_same_bits(std::int64_t n, std::int64_t outputs, int blocks, WorkOn work_on,
                      const Values<Out>* in_place = nullptr) {
  Values<Out> items(outputs), packs(outputs);
  if (in_place != nullptr) items = packs = *in_place;
  const auto one_by_one = work_on(items.data());
  for (std::int64_t i = 0; i < n; ++i) one_by_one(i);
  HostMachine machine;
  machine.most_pack_blocks = blocks;
  machine.each(n, work_on(packs.data()));
  for (std::size_t i = 0; i < items.all().size(); ++i)
    if (!same(items.all()[i], packs.all()[i])) {
      ADD_FAILURE() << "item " << i << " of " << n << " differs";
      break;
    }
  return machine.in_packs > 0;
}

template <class T>
class CudaPacks : public testing::Test {};
struct Names {
  template <class T>
  static std::string GetName(int) {
    return Name<T>::text;
  }
};
using Formats = testing::Types<float, Bf16, Fp16>;
TYPED_TEST_SUITE(CudaPacks, Formats, Names);

// One turn of a thread, several, and numbers of packs that leave threads without a second one.
constexpr std::int64_t row_counts[] = {1, 5, 255, 256, 257, 700, 1301};

/// Channels, how many blocks there may be, and whether that can be done in packs.
struct Case {
  std::int64_t channels;
  int blocks;
  bool packs;
};
constexpr Case cases[] = {{8, 1, true},   {8, 8, true},  {16, 1, true},  {24, 3, true},
                          {24, 2, false}, {40, 8, true}, {64, 2, true},  {2056, 8, false},
                          {3, 8, false},  {1, 8, false}, {12, 8, false}, {512, 1, true}};

TYPED_TEST(CudaPacks, NormApply) {
  using T = TypeParam;
  for (const Case& c : cases)
    for (const std::int64_t rows : row_counts)
      for (const bool add : {false, true})
        for (const bool relu : {false, true}) {
          if (rows * c.channels > 200000) continue;
          SCOPED_TRACE(testing::Message() << c.channels << " channels, " << rows << " rows");
          auto x = drawn<T>(rows * c.channels, 1), residual = drawn<T>(rows * c.channels, 2);
          auto mean = drawn<float>(c.channels, 3), inverse = drawn<float>(c.channels, 4);
          auto gamma = drawn<float>(c.channels, 5), beta = drawn<float>(c.channels, 6);
          const SliceHeader header{rows - rows / 3};
          const auto work = [&](T* y) {
            return NormApply<T>{x.data(),
                                add ? residual.data() : nullptr,
                                y,
                                mean.data(),
                                inverse.data(),
                                gamma.data(),
                                beta.data(),
                                &header,
                                c.channels,
                                1,
                                relu};
          };
          const std::int64_t n = rows * c.channels;
          EXPECT_EQ(expect_same_bits<T>(n, n, c.blocks, work), c.packs);
          const auto in_place = [&](T* y) {
            auto over = work(y);
            over.x = y;
            return over;
          };
          EXPECT_EQ(expect_same_bits<T>(n, n, c.blocks, in_place, &x), c.packs);
        }
}

TYPED_TEST(CudaPacks, NormBackward) {
  using T = TypeParam;
  for (const Case& c : cases)
    for (const std::int64_t rows : row_counts)
      for (const int outputs : {1, 2, 3}) {
        if (rows * c.channels > 200000) continue;
        SCOPED_TRACE(testing::Message() << c.channels << " channels, " << rows << " rows");
        const std::int64_t n = rows * c.channels;
        auto x = drawn<T>(n, 1), y = drawn<T>(n, 2), dy = drawn<T>(n, 3);
        auto mean = drawn<float>(c.channels, 4), inverse = drawn<float>(c.channels, 5);
        auto gamma = drawn<float>(c.channels, 6), dgamma = drawn<float>(c.channels, 7);
        auto dbeta = drawn<float>(c.channels, 8);
        const SliceHeader header{rows - rows / 3};
        for (const bool relu : {false, true}) {
          // Both results in one piece of memory, the second behind what must not be touched of the first.
          const std::int64_t second = (n + 64) / 16 * 16;
          const auto work = [&](T* out) {
            return NormBackward<T>{x.data(),
                                   relu ? y.data() : nullptr,
                                   dy.data(),
                                   (outputs & 1) != 0 ? out : nullptr,
                                   (outputs & 2) != 0 ? out + second : nullptr,
                                   mean.data(),
                                   inverse.data(),
                                   gamma.data(),
                                   dgamma.data(),
                                   dbeta.data(),
                                   &header,
                                   c.channels,
                                   1};
          };
          EXPECT_EQ(expect_same_bits<T>(n, second + n, c.blocks, work), c.packs);
        }
      }
}

TYPED_TEST(CudaPacks, BiasRelu) {
  using T = TypeParam;
  for (const Case& c : cases)
    for (const std::int64_t rows : row_counts) {
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

}  // namespace
}  // namespace lockstep::cuda
