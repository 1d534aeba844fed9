// The kernels of batch norm, eight channels at once and item after item: the same bits; and what is summed
// over rows.

#include <algorithm>
#include <utility>

#include "model/cuda/kernels/work_residual.h"
#include "model/cuda/packs.h"

namespace lockstep::cuda {
namespace {

using test::drawn;
using test::expect_same_bits;

template <class T>
class CudaNormPacks : public testing::Test {};
TYPED_TEST_SUITE(CudaNormPacks, test::Formats, test::Names);

TYPED_TEST(CudaNormPacks, NormApply) {
  using T = TypeParam;
  for (const test::PackCase& c : test::pack_cases)
    for (const std::int64_t rows : test::row_counts)
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

TYPED_TEST(CudaNormPacks, NormBackward) {
  using T = TypeParam;
  for (const test::PackCase& c : test::pack_cases)
    for (const std::int64_t rows : test::row_counts)
      for (const int outputs : {1, 2, 3}) {
        if (rows * c.channels > 200000) continue;
        SCOPED_TRACE(testing::Message() << c.channels << " channels, " << rows << " rows");
        const std::int64_t n = rows * c.channels;
        auto x = drawn<T>(n, 1), y = drawn<T>(n, 2), dy = drawn<T>(n, 3);
        auto mean = drawn<float>(c.channels, 4), inverse = drawn<float>(c.channels, 5);
        auto gamma = drawn<float>(c.channels, 6), dgamma = drawn<float>(c.channels, 7);
        auto dbeta = drawn<float>(c.channels, 8), beta = drawn<float>(c.channels, 9);
        const SliceHeader header{rows - rows / 3};
        const ReluSign<T> signs[] = {{}, {gamma.data(), beta.data()}};
        for (const auto& sign : signs) {
          // Both results in one piece of memory, the second behind what must not be touched of the first.
          const std::int64_t second = (n + 64) / 16 * 16;
          const auto work = [&](T* out) {
            return NormBackward<T>{x.data(),
                                   dy.data(),
                                   sign,
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

TYPED_TEST(CudaNormPacks, Chunks) {
  using T = TypeParam;
  for (const test::PackCase& c : test::pack_cases)
    for (const std::int64_t rows : {1, 31, 100, 1301})
      for (const std::int64_t valid : {rows, rows - rows / 3, std::int64_t{0}}) {
        if (rows * c.channels > 100000) continue;
        SCOPED_TRACE(testing::Message() << c.channels << " channels, " << valid << " of " << rows << " rows");
        const ChunkPlan plan = chunk_plan(rows);
        const std::int64_t n = plan.chunks * c.channels, second = (n + 64) / 16 * 16;
        auto x = drawn<T>(rows * c.channels, 1), y = drawn<T>(rows * c.channels, 2);
        auto dy = drawn<T>(rows * c.channels, 3);
        auto mean = drawn<float>(c.channels, 4), inverse = drawn<float>(c.channels, 5);
        auto gamma = drawn<float>(c.channels, 6), beta = drawn<float>(c.channels, 7);
        const SliceHeader header{valid};
        const auto statistics = [&](float* out) {
          return NormChunk<T>{x.data(), out, out + second, &header, c.channels, 1, plan};
        };
        EXPECT_EQ(expect_same_bits<float>(n, second + n, c.blocks, statistics), c.packs);
        const ReluSign<T> signs[] = {{}, {gamma.data(), beta.data()}};
        for (const auto& sign : signs)
          EXPECT_EQ(expect_same_bits<float>(n, second + n, c.blocks,
                                            [&](float* out) {
                                              return GradientChunk<T>{
                                                  x.data(),       dy.data(), sign,         mean.data(),
                                                  inverse.data(), out,       out + second, &header,
                                                  c.channels,     1,         plan};
                                            }),
                    c.packs);
        EXPECT_EQ(expect_same_bits<float>(n, n, c.blocks,
                                          [&](float* out) {
                                            return GradientChunk<T>{nullptr,    dy.data(), {},      nullptr,
                                                                    nullptr,    out,       nullptr, &header,
                                                                    c.channels, 1,         plan};
                                          }),
                  c.packs);
      }
}

TYPED_TEST(CudaNormPacks, ResidualChunks) {
  using T = TypeParam;
  for (const test::PackCase& c : test::pack_cases)
    for (const std::int64_t rows : {1, 31, 100, 1301})
      for (const std::int64_t valid : {rows, rows - rows / 3, std::int64_t{0}})
        for (const bool two : {false, true}) {
          if (rows * c.channels > 100000) continue;
          SCOPED_TRACE(testing::Message()
                       << c.channels << " channels, " << valid << " of " << rows << " rows");
          const ChunkPlan plan = chunk_plan(rows);
          const std::int64_t n = plan.chunks * c.channels, second = (n + 64) / 16 * 16;
          auto x = drawn<T>(rows * c.channels, 1), y = drawn<T>(rows * c.channels, 2);
          auto dy = drawn<T>(rows * c.channels, 3), more = drawn<T>(rows * c.channels, 4);
          auto mean = drawn<float>(c.channels, 5), inverse = drawn<float>(c.channels, 6);
          const SliceHeader header{valid};
          const auto work = [&](T* g, float* out) {
            return ResidualChunk<T>{x.data(),
                                    y.data(),
                                    two ? more.data() : nullptr,
                                    g,
                                    mean.data(),
                                    inverse.data(),
                                    out,
                                    out + second,
                                    &header,
                                    c.channels,
                                    1,
                                    rows,
                                    plan};
          };
          test::Values<T> g[2] = {dy, dy};
          test::Values<float> out[2] = {test::Values<float>(second + n), test::Values<float>(second + n)};
          const auto items = work(g[0].data(), out[0].data());
          for (std::int64_t i = 0; i < n; ++i) items(i);
          test::HostMachine machine;
          machine.most_pack_blocks = c.blocks;
          machine.each(n, work(g[1].data(), out[1].data()));
          EXPECT_EQ(machine.in_packs > 0, c.packs);
          EXPECT_TRUE(test::same(g[0], g[1]));
          EXPECT_TRUE(test::same(out[0], out[1]));
        }
}

// At once, the sum of two gradients, the ReLU's mask and the norm's sums are what they are one after the
// other.
TYPED_TEST(CudaNormPacks, ResidualChunksAreAddMaskAndSum) {
  using T = TypeParam;
  const std::int64_t rows = 200, valid = 170;
  for (const std::int64_t channels : {5, 16}) {
    const std::int64_t n = rows * channels, used = valid * channels;
    const ChunkPlan plan = chunk_plan(rows);
    const std::int64_t sums = plan.chunks * channels;
    auto x = drawn<T>(n, 1), y = drawn<T>(n, 2), dy = drawn<T>(n, 3), more = drawn<T>(n, 4);
    auto mean = drawn<float>(channels, 5), inverse = drawn<float>(channels, 6);
    const SliceHeader header{valid};
    test::HostMachine machine;
    auto g = dy;
    test::Values<float> a(sums), b(sums), wanted_a(sums), wanted_b(sums);
    machine.each(sums,
                 ResidualChunk<T>{x.data(), y.data(), more.data(), g.data(), mean.data(), inverse.data(),
                                  a.data(), b.data(), &header, channels, 1, rows, plan});
    machine.each(n, Add<T>{dy.data(), more.data(), dy.data()});
    machine.each(n, ReluBackward<T>{y.data(), dy.data(), dy.data()});
    machine.each(sums, GradientChunk<T>{x.data(),
                                        dy.data(),
                                        {},
                                        mean.data(),
                                        inverse.data(),
                                        wanted_a.data(),
                                        wanted_b.data(),
                                        &header,
                                        channels,
                                        1,
                                        plan});
    for (std::int64_t i = 0; i < n; ++i)
      if (i >= used) store(dy.data()[i], 0.0f);
    EXPECT_TRUE(test::same(g, dy));
    EXPECT_TRUE(test::same(a, wanted_a));
    EXPECT_TRUE(test::same(b, wanted_b));
  }
}

// Of a pack in which one channel was summed elsewhere the others are still summed.
TYPED_TEST(CudaNormPacks, ChunksOfWhichSomeChannelsAreGiven) {
  using T = TypeParam;
  const std::int64_t channels = 16, rows = 90;
  const ChunkPlan plan = chunk_plan(rows);
  const std::size_t n = static_cast<std::size_t>(plan.chunks * channels);
  auto x = drawn<T>(rows * channels, 1), dy = drawn<T>(rows * channels, 2);
  const SliceHeader header{rows};
  std::vector<float> sum(16, 0.0f), squares(16, 90.0f), dgamma(16), dbeta(16), mean(16, 0.5f),
      inverse(16, 1.0f);
  sum[3] = sum[8] = 9000.0f;  // a mean of 100 deviations
  squares[3] = squares[8] = 90.0f * 10001.0f;
  mean[3] = mean[8] = 100.0f;
  const GivenSums given{sum.data(), squares.data()};
  const GivenGradientSums given_gradient{dgamma.data(), dbeta.data(), mean.data(), inverse.data()};
  std::vector<float> a(n, -1.0f), b(n, -1.0f), wanted_a(n), wanted_b(n);
  test::HostMachine machine;
  const auto check = [&](const char* what) {
    for (std::size_t i = 0; i < n; ++i) {
      if (i % 16 != 3 && i % 16 != 8) continue;
      EXPECT_TRUE(test::same(a[i], wanted_a[i]) && test::same(b[i], wanted_b[i])) << what << " " << i;
    }
  };
  machine.each(static_cast<std::int64_t>(n),
               NormChunk<T>{x.data(), a.data(), b.data(), &header, channels, 1, plan, given});
  const NormChunk<T> chunk{x.data(), wanted_a.data(), wanted_b.data(), &header, channels, 1, plan};
  for (std::size_t i = 0; i < n; ++i) chunk(static_cast<std::int64_t>(i));
  check("statistics");
  machine.each(static_cast<std::int64_t>(n), GradientChunk<T>{x.data(),
                                                              dy.data(),
                                                              {},
                                                              mean.data(),
                                                              inverse.data(),
                                                              a.data(),
                                                              b.data(),
                                                              &header,
                                                              channels,
                                                              1,
                                                              plan,
                                                              given_gradient});
  const GradientChunk<T> gradient{
      x.data(), dy.data(), {}, mean.data(), inverse.data(), wanted_a.data(), wanted_b.data(),
      &header,  channels,  1,  plan};
  for (std::size_t i = 0; i < n; ++i) gradient(static_cast<std::int64_t>(i));
  check("gradients");
  EXPECT_EQ(machine.in_packs, 2);
}

// The sign of a ReLU from the norm's input is that of the stored result, also where this was rounded to 0, or
// is NaN.
TYPED_TEST(CudaNormPacks, TheSignFromTheInputIsThatOfTheResult) {
  using T = TypeParam;
  const std::int64_t channels = 24, rows = 3000;
  auto x = drawn<T>(rows * channels, 1);
  std::mt19937 random(2);
  const std::vector<float> tiny = {0.0f,      -0.0f,     0x1p-25f,        0x1.000002p-25f, 0x1.fffffep-26f,
                                   0x1p-24f,  0x1p-134f, 0x1.00008p-134f, 0x1.ffffp-135f,  0x1p-133f,
                                   0x1p-149f, -0x1p-149f};
  for (std::int64_t i = 0; i < rows * channels; i += 3) store(x.data()[i], tiny[random() % tiny.size()]);
  std::vector<float> mean(24), inverse(24, 1.0f), gamma(24, 1.0f), beta(24);
  // Some channels pass their input on, some put what is tiny at the edge.
  for (std::size_t c = 0; c < 24; ++c) {
    if (c % 3 == 1) beta[c] = tiny[c / 3 + 2];
    if (c % 3 == 2) gamma[c] = c % 2 == 0 ? 0.7f : -1.3f;
    if (c == 23) beta[c] = std::nanf("");
  }
  const SliceHeader header{rows};
  auto y = drawn<T>(rows * channels, 3);
  const NormApply<T> apply{x.data(),     nullptr,     y.data(), mean.data(), inverse.data(),
                           gamma.data(), beta.data(), &header,  channels,    1,
                           true};
  int positive = 0, zero = 0;
  for (std::int64_t i = 0; i < rows * channels; ++i) {
    apply(i);
    const ReluSign<T> sign{gamma.data(), beta.data()};
    const float masked = sign.mask(1.0f, load(x.data()[i]), mean.data(), inverse.data(), i % channels);
    ASSERT_EQ(masked, load(y.data()[i]) > 0.0f ? 1.0f : 0.0f) << i << ": " << load(x.data()[i]);
    (masked > 0 ? positive : zero) += 1;
  }
  EXPECT_GT(positive, 1000);
  EXPECT_GT(zero, 1000);
}

// Against long double: sets of which the last is not full, means far from each other and from 0.
TEST(CudaMoments, SetsAreJoined) {
  std::mt19937 random(3);
  std::normal_distribution<double> draw;
  for (const std::int64_t sets : {1, 2, 7, 8, 9, 63, 64})
    for (const double far : {0.0, 1.0, 1e3, 1e6})
      for (const std::int64_t numbers :
           {std::int64_t{0}, std::int64_t{1}, 32 * sets - 31, 32 * sets, 16 * sets + 1}) {
        const std::int64_t stride = 3;
        std::vector<double> mean(static_cast<std::size_t>(sets * stride), std::nan("")), squares = mean;
        long double sum = 0, off = 0;
        const auto set = [&](std::int64_t k) { return static_cast<std::size_t>(k * stride); };
        const auto count = [&](std::int64_t k) {
          return static_cast<long double>(std::clamp<std::int64_t>(numbers - 32 * k, 0, 32));
        };
        for (std::int64_t k = 0; k < sets; ++k) {
          if (count(k) == 0) continue;  // what lies there must not be read
          mean[set(k)] = far + draw(random);
          squares[set(k)] = 32 * std::abs(draw(random));
          sum += count(k) * static_cast<long double>(mean[set(k)]);
        }
        const long double middle = numbers > 0 ? sum / static_cast<long double>(numbers) : 0;
        for (std::int64_t k = 0; k < sets; ++k) {
          if (count(k) == 0) continue;
          const long double d = static_cast<long double>(mean[set(k)]) - middle;
          off += static_cast<long double>(squares[set(k)]) + count(k) * d * d;
        }
        const Moments got = join(mean.data(), squares.data(), stride, sets, 32, numbers);
        SCOPED_TRACE(testing::Message() << sets << " sets of " << numbers << " at " << far);
        EXPECT_EQ(got.count, static_cast<double>(numbers));
        EXPECT_NEAR(got.mean, static_cast<double>(middle), 1e-15 * (1 + far) * 16);
        // Deviations are off by the rounding of the mean, which their sum does not see but in the square.
        EXPECT_NEAR(got.squares, static_cast<double>(off),
                    (1e-14 + 1e-15 * far * 1e-1) * (1 + static_cast<double>(off)));
      }
}

// Sums of one launch are those of two.
TEST(CudaMoments, TwoSumsAtOnce) {
  const std::int64_t channels = 5, rows = 9000;
  const ChunkPlan plan = chunk_plan(rows);
  ASSERT_GT(plan.groups, 1);
  const auto chunks = static_cast<std::size_t>(plan.chunks * channels),
             groups = static_cast<std::size_t>(plan.groups * channels);
  auto a = drawn<float>(static_cast<std::int64_t>(chunks), 1),
       b = drawn<float>(static_cast<std::int64_t>(chunks), 2);
  for (std::size_t i = 0; i < chunks; ++i)
    for (auto* v : {&a, &b})
      if (!(std::abs(v->data()[i]) < 1e6f)) v->data()[i] = 1.0f;
  std::vector<double> ga(groups), gb(groups);
  std::vector<float> sa(5), sb(5);
  test::HostMachine machine;
  machine.each(2 * plan.groups * channels,
               SumGroup{{a.data(), b.data()}, {ga.data(), gb.data()}, channels, plan});
  machine.each(2 * channels, SumFinish{{ga.data(), gb.data()}, {sa.data(), sb.data()}, channels, plan});
  for (std::size_t c = 0; c < 5; ++c)
    for (const auto& [from, got] : {std::pair(a.data(), sa[c]), std::pair(b.data(), sb[c])}) {
      double wanted = 0, part = 0;
      for (std::int64_t k = 0; k < plan.chunks; ++k) {
        if (k % chunks_per_group == 0) wanted += std::exchange(part, 0.0);
        part += static_cast<double>(from[static_cast<std::size_t>(k) * 5 + c]);
      }
      EXPECT_EQ(got, static_cast<float>(wanted + part));
    }
}

}  // namespace
}  // namespace lockstep::cuda
