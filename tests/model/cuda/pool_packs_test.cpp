// Pooling, eight channels at once and item after item: the same bits.

#include "model/cuda/kernels/work_pool.h"
#include "model/cuda/packs.h"

namespace lockstep::cuda {
namespace {

using test::drawn;
using test::expect_same_bits;

template <class T>
class CudaPoolPacks : public testing::Test {};
TYPED_TEST_SUITE(CudaPoolPacks, test::Formats, test::Names);

PoolShape pool(std::int64_t channels, std::int64_t h, std::int64_t w, std::int64_t kernel_h,
               std::int64_t kernel_w, std::int64_t stride_h, std::int64_t stride_w, std::int64_t pad_h,
               std::int64_t pad_w) {
  return {channels,
          h,
          w,
          (h + 2 * pad_h - kernel_h) / stride_h + 1,
          (w + 2 * pad_w - kernel_w) / stride_w + 1,
          kernel_h,
          kernel_w,
          stride_h,
          stride_w,
          pad_h,
          pad_w};
}
std::vector<PoolShape> shapes() {
  std::vector<PoolShape> all;
  for (const std::int64_t channels : {8, 16, 24, 40, 3, 12}) {
    all.push_back(pool(channels, 12, 11, 3, 3, 2, 2, 1, 1));
    all.push_back(pool(channels, 9, 8, 2, 2, 2, 2, 0, 0));
    all.push_back(pool(channels, 7, 10, 3, 2, 1, 3, 1, 0));
    all.push_back(pool(channels, 7, 7, 7, 7, 1, 1, 0, 0));      // global
    all.push_back(pool(channels, 6, 9, 2, 3, 3, 4, 0, 1));      // windows with gaps between
    all.push_back(pool(channels, 17, 16, 16, 16, 1, 1, 1, 0));  // 256 places: not in a byte
    all.push_back(pool(channels, 15, 17, 15, 17, 1, 1, 0, 0));  // 255 places
  }
  return all;
}

template <class T>
test::Values<T> image(std::int64_t n, unsigned seed) {
  // Few different values, so that many are equal.
  auto x = drawn<T>(n, seed);
  for (std::int64_t i = 0; i < n; ++i) {
    const float v = load(x.data()[i]);
    if (i % 5 != 0) store(x.data()[i], std::isfinite(v) ? std::floor(std::fmod(v, 4.0f)) : v);
  }
  return x;
}

template <class T, class Place>
void check_maximum(const PoolShape& s, std::int64_t rows, bool packs) {
  const std::int64_t in = rows * s.in_h * s.in_w * s.channels, out = rows * s.out_h * s.out_w * s.channels;
  auto x = image<T>(in, 1), dy = drawn<T>(out, 2);
  test::Values<Place> taken(out), unused(out);
  const bool expected = packs && sizeof(Place) == 1;
  EXPECT_EQ(expect_same_bits<T>(out, out, 8,
                                [&](T* y) {
                                  return MaxPool<T, Place>{x.data(), y, nullptr, s};
                                }),
            packs);
  test::Values<T> y(out);
  EXPECT_EQ(expect_same_bits<Place>(out, out, 8,
                                    [&](Place* places) {
                                      return MaxPool<T, Place>{x.data(), y.data(), places, s};
                                    }),
            expected);
  const MaxPool<T, Place> forward{x.data(), y.data(), taken.data(), s};
  for (std::int64_t i = 0; i < out; ++i) forward(i);
  EXPECT_EQ(expect_same_bits<T>(in, in, 8,
                                [&](T* dx) {
                                  return MaxPoolBackward<T, Place>{dy.data(), taken.data(), dx, s};
                                }),
            expected);
}

TYPED_TEST(CudaPoolPacks, Maximum) {
  using T = TypeParam;
  for (const PoolShape& s : shapes())
    for (const std::int64_t rows : {1, 3, 20}) {
      if (rows > 3 && (s.channels > 8 || s.kernel_h > 3)) continue;
      SCOPED_TRACE(testing::Message()
                   << s.channels << " channels, window " << s.kernel_h << " " << s.kernel_w);
      check_maximum<T, std::int32_t>(s, rows, s.channels % 8 == 0);
      if (s.byte_places()) check_maximum<T, std::uint8_t>(s, rows, s.channels % 8 == 0);
      EXPECT_EQ(s.byte_places(), s.kernel_h != 16);
    }
}

// The first of equal maxima, and the first NaN before all of them.
TYPED_TEST(CudaPoolPacks, WhichPlaceIsTaken) {
  using T = TypeParam;
  const float nan = std::nanf(""), minus = -std::numeric_limits<float>::infinity();
  struct Window {
    float v[4];
    std::uint8_t taken;
  };
  const Window windows[] = {
      {{1, 1, 1, 1}, 0},     {{0, 2, 2, 1}, 1},        {{minus, minus, minus, minus}, 0},
      {{-0.0f, 0, 0, 0}, 0}, {{3, nan, 4, nan}, 1},    {{nan, 5, nan, 5}, 0},
      {{1, 2, 3, nan}, 3},   {{minus, nan, 7, nan}, 1}};
  std::vector<T> x(32);
  for (std::size_t p = 0; p < 4; ++p)
    for (std::size_t c = 0; c < 8; ++c) store(x[p * 8 + c], windows[c].v[p]);
  std::vector<T> y(8);
  std::vector<std::uint8_t> taken(8);
  test::HostMachine machine;
  machine.each(8,
               MaxPool<T, std::uint8_t>{x.data(), y.data(), taken.data(), pool(8, 2, 2, 2, 2, 2, 2, 0, 0)});
  EXPECT_EQ(machine.in_packs, 1);
  for (std::size_t c = 0; c < 8; ++c) EXPECT_EQ(taken[c], windows[c].taken) << c;
}

TYPED_TEST(CudaPoolPacks, Average) {
  using T = TypeParam;
  for (const PoolShape& s : shapes())
    for (const std::int64_t rows : {1, 3}) {
      SCOPED_TRACE(testing::Message()
                   << s.channels << " channels, window " << s.kernel_h << " " << s.kernel_w);
      const std::int64_t in = rows * s.in_h * s.in_w * s.channels,
                         out = rows * s.out_h * s.out_w * s.channels;
      auto x = drawn<T>(in, 1), dy = drawn<T>(out, 2);
      EXPECT_EQ(expect_same_bits<T>(out, out, 8,
                                    [&](T* y) {
                                      return AvgPool<T>{x.data(), y, s};
                                    }),
                s.channels % 8 == 0);
      EXPECT_EQ(expect_same_bits<T>(in, in, 8,
                                    [&](T* dx) {
                                      return AvgPoolBackward<T>{dy.data(), dx, s};
                                    }),
                s.channels % 8 == 0);
    }
}

}  // namespace
}  // namespace lockstep::cuda
