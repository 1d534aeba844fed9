// The CPU kernel of softmax and the exponential that it uses, against float64.
#include "model/ops/activation/softmax.h"

#include <bit>

#include "model/cpu/kernels/vector_math.h"
#include "model/cpu/op_harness.h"

namespace lockstep::op_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

TEST(CpuVectorMath, ExpIsWithinOneUlp) {
  // Every 1009th float32 from -104 to 88.72, both signs, denormals included.
  std::vector<float> x;
  for (std::uint32_t bits = 0; bits < 0x7f800000u; bits += 1009) {
    const float value = std::bit_cast<float>(bits);
    if (value <= 88.72f) x.push_back(value);
    if (value <= 104.0f) x.push_back(-value);
  }
  std::vector<float> y(x.size());
  cpu::exp_shifted(x.data(), 0.0f, y.data(), static_cast<std::int64_t>(x.size()));
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    const auto nearest = static_cast<float>(exact);
    ASSERT_TRUE(std::isfinite(y[i])) << x[i];
    const double ulp = static_cast<double>(std::nextafter(nearest, infinity)) - static_cast<double>(nearest);
    worst = std::max(worst, std::abs(static_cast<double>(y[i]) - exact) / ulp);
  }
  EXPECT_LE(worst, 1.01);
}

TEST(CpuVectorMath, ExpAtTheEnds) {
  const std::vector<float> x = {0.0f, -0.0f, 89.0f, 1e30f, infinity, -104.0f, -1e30f, -infinity, nan, -nan};
  std::vector<float> y(x.size());
  cpu::exp_shifted(x.data(), 0.0f, y.data(), static_cast<std::int64_t>(x.size()));
  EXPECT_EQ(std::vector<float>(y.begin(), y.begin() + 8),
            (std::vector<float>{1, 1, infinity, infinity, infinity, 0, 0, 0}));
  EXPECT_TRUE(std::isnan(y[8]) && std::isnan(y[9]));
}

TEST(CpuVectorMath, SumsAndLargestOfAnyLength) {
  for (const std::int64_t n : {1, 2, 15, 16, 17, 31, 32, 33, 1000}) {
    const auto a = random_floats(n, 1);
    const auto b = random_floats(n, 2);
    double sum = 0;
    double dot = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]);
    for (std::size_t i = 0; i < a.size(); ++i) dot += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    EXPECT_NEAR(cpu::sum(a.data(), n), sum, 1e-12);
    EXPECT_NEAR(cpu::dot(a.data(), b.data(), n), dot, 1e-12);
    EXPECT_EQ(cpu::largest(a.data(), n), *std::max_element(a.begin(), a.end()));
  }
}

TEST(CpuSoftmax, EqualsTheReferenceInEveryLayout) {
  struct Case {
    Shape shape;
    std::int64_t block, rows;
  };
  for (const Case& c : std::vector<Case>{{Shape{10}, 1, 5},
                                         {Shape{1}, 1, 2},
                                         {Shape{1000}, 1, 3},
                                         {Shape{60000}, 1, 9},
                                         {Shape{16, 3, 7}, 1, 2},
                                         {Shape{16, 3, 7}, 8, 2},
                                         {Shape{16, 3, 7}, 16, 2},
                                         {Shape{6, 3, 20}, 0, 2},
                                         {Shape{16, 1, 1}, 16, 2},
                                         {Shape{64, 40, 30}, 16, 9}}) {
    // x - max is rounded (its magnitude is below 12 for these draws), e^x errs by 1 ulp = 2 u; a sum of such
    // terms errs by as much; the quotient is rounded once.
    const double relative = unit * (2 * (12 + 2) + 1);
    check_against_reference(
        cpu::make_softmax, {SoftmaxAttrs{}, {c.shape}, c.block, c.rows, c.rows},
        [=](std::size_t, double expected) { return relative * expected; },
        // In float64 from the kernel's own output, then rounded.
        [](std::size_t, double expected) { return 1.001 * unit * std::abs(expected) + 1e-15; },
        c.shape.text() + " block " + std::to_string(c.block));
  }
}

TEST(CpuSoftmax, LargeLogitsOverflowNothing) {
  CpuOp op(cpu::make_softmax, {SoftmaxAttrs{}, {Shape{4}}, 1, 2, 2});
  op.set_input(0, {1e30f, 1e30f, -1e30f, 0, -3e38f, 3e38f, 0, 1});
  op.forward();
  EXPECT_EQ(op.output(), (std::vector<float>{0.5f, 0.5f, 0, 0, 0, 1, 0, 0}));
}

TEST(CpuSoftmax, NanMakesItsLineNanAndNoOther) {
  for (const std::int64_t block : {1, 16}) {
    CpuOp op(cpu::make_softmax, {SoftmaxAttrs{}, {Shape{16, 2, 5}}, block, 2, 2});
    auto x = random_floats(op.input_elements(0), 1);
    for (const std::size_t place : {0u, 3u}) {
      auto bad = x;
      bad[35 + place] = nan;
      op.set_input(0, bad);
      op.set_diff_output(x);
      op.forward();
      op.backward();
      const auto y = op.output();
      const auto dx = op.diff_input(0);
      for (std::size_t i = 0; i < y.size(); ++i) {
        ASSERT_EQ(std::isnan(y[i]), i / 5 == 7) << i;
        ASSERT_EQ(std::isnan(dx[i]), i / 5 == 7) << i;
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::op_test
