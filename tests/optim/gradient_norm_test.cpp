#include "optim/test_support.h"

namespace lockstep {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

TEST(GradientNorm, CountsParametersOnly) {
  const FlatLayout layout = example_layout();
  const Range all{0, layout.elements};
  const Optimizer optimizer(options_of("sgd"), layout, {&all, 1});
  std::vector<float> gradient = numbers(3, layout.elements);
  double want = 0;
  for (const FlatSegment& s : layout.segments) {
    if (s.kind == FlatSegment::Kind::statistic) continue;
    for (std::int64_t i = s.storage.begin; i < s.storage.end; ++i) {
      const double x = gradient[static_cast<std::size_t>(i)];
      want += x * x;
    }
  }
  std::vector<double> sums(4, -1);
  optimizer.sum_squares(views_of(gradient, {}), sums);
  EXPECT_NEAR(gradient_norm(sums, 1.0 / 32), std::sqrt(want) / 32, 1e-12 * want);
  // Whatever statistics and padding hold, the sums stay.
  std::vector<double> other(4, -1);
  for (std::int64_t i = 5003; i < 6016; ++i) gradient[static_cast<std::size_t>(i)] = 1e30f;
  optimizer.sum_squares(views_of(gradient, {}), other);
  EXPECT_EQ(sums, other);
  gradient[6016] += 1.0f;
  optimizer.sum_squares(views_of(gradient, {}), other);
  EXPECT_NE(sums, other);
}

TEST(GradientNorm, SameBitsHoweverViewsAreCutAndShared) {
  const FlatLayout layout = example_layout();
  const Range all{0, layout.elements};
  const Optimizer optimizer(options_of("sgd"), layout, {&all, 1});
  const std::vector<float> gradient = numbers(3, layout.elements);
  std::vector<double> whole(4);
  optimizer.sum_squares(views_of(gradient, {}), whole);
  for (const std::vector<std::int64_t>& cuts : {std::vector<std::int64_t>{1}, {2}, {1, 2, 3}}) {
    for (int lanes = 1; lanes <= 5; ++lanes) {
      std::vector<double> sums(4, -1);
      for (int lane = 0; lane < lanes; ++lane)
        optimizer.sum_squares(views_of(gradient, cuts), sums, lane, lanes);
      EXPECT_EQ(whole, sums);
    }
  }
  // A rank that owns the middle fills its own entries and no others.
  const std::vector<TotalView> middle = {
      {{block_elements, 3 * block_elements}, gradient.data() + block_elements}};
  std::vector<double> sums(4, -1);
  optimizer.sum_squares(middle, sums);
  EXPECT_EQ(sums, (std::vector<double>{-1, whole[1], whole[2], -1}));
}

TEST(GradientNorm, IsNotFiniteWhenTheGradientIsNot) {
  const FlatLayout layout = example_layout();
  const Range all{0, layout.elements};
  const Optimizer optimizer(options_of("sgd"), layout, {&all, 1});
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> gradient = numbers(3, layout.elements);
    gradient[7001] = bad;
    std::vector<double> sums(4);
    optimizer.sum_squares(views_of(gradient, {}), sums);
    EXPECT_FALSE(std::isfinite(gradient_norm(sums, 1)));
  }
  // The largest floats do not overflow the sum.
  const std::vector<float> large(12416, std::numeric_limits<float>::max());
  std::vector<double> sums(4);
  optimizer.sum_squares(views_of(large, {}), sums);
  EXPECT_TRUE(std::isfinite(gradient_norm(sums, 1)));
}

TEST(GradientNorm, ClipsAsPyTorchDoes) {
  EXPECT_EQ(clip_scale(3.0, 0), 1.0);  // off
  EXPECT_EQ(clip_scale(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_scale(0.0, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_scale(4.0, 1.0), 1.0 / (4.0 + 1e-6));
  EXPECT_LT(clip_scale(1.0, 1.0), 1.0);
  EXPECT_TRUE(std::isnan(clip_scale(std::numeric_limits<double>::quiet_NaN(), 1.0)));
  EXPECT_EQ(gradient_norm({}, 1.0), 0.0);
}

TEST(GradientNorm, ClippedGradientHasTheWantedNorm) {
  const FlatLayout layout = example_layout();
  const Range all{0, layout.elements};
  Optimizer optimizer(options_of("sgd"), layout, {&all, 1});
  const std::vector<float> gradient = numbers(3, layout.elements);
  std::vector<double> sums(4);
  optimizer.sum_squares(views_of(gradient, {}), sums);
  const double norm = gradient_norm(sums, inverse_count);
  ASSERT_GT(norm, 0.25);
  std::vector<float> parameters(static_cast<std::size_t>(layout.elements));
  optimizer.begin_step({1.0, inverse_count, clip_scale(norm, 0.25), 0});
  optimizer.update(all, gradient.data(),
                   parameters);  // from 0 with lr 1: the parameters are minus the gradient
  double square = 0;
  for (std::int64_t i = 0; i < layout.elements; ++i) {
    const double x = parameters[static_cast<std::size_t>(i)];
    if (i < 5003 || i >= 6016) square += x * x;
  }
  EXPECT_NEAR(std::sqrt(square), 0.25, 1e-6);
  // A statistic is not clipped.
  EXPECT_FLOAT_EQ(parameters[5010], 0.1f * gradient[5010] * static_cast<float>(inverse_count));
}

}  // namespace
}  // namespace lockstep
