#include "model/plan/init.h"

#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <vector>

#include "core/error.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/graph_builder.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;

Graph conv_graph(InitKind init, std::int64_t channels = 4, bool relu = false) {
  GraphBuilder b;
  ValueId x = b.conv2d(b.input({1, 4, 4}), {channels, 3, 3}, "c", init);
  if (relu) x = b.relu(x);
  return b.finish(b.dense(b.flatten(x), {2}), CrossEntropyAttrs{});
}

std::vector<float> drawn(const Graph& graph, std::size_t parameter, std::uint64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(graph.parameters.at(parameter).shape.elements()));
  initialise_plain(graph, parameter, seed, values);
  return values;
}

std::vector<float> first(std::vector<float> values, std::size_t n) {
  values.resize(n);
  return values;
}

// Worked out by an independent implementation of Philox 4x32-10 and of the formulas in init.h. Whoever
// changes these changes what every seed means.
TEST(Init, FirstValuesArePinned) {
  const Graph uniform = conv_graph(InitKind::torch_linear);
  EXPECT_THAT(first(drawn(uniform, 0, 7), 6), ElementsAre(0x1.d3eed8p-3f, 0x1.50d79cp-4f, -0x1.02dbfep-11f,
                                                          0x1.af31c0p-3f, 0x1.1c4b3cp-2f, 0x1.8bed18p-3f));
  EXPECT_THAT(drawn(uniform, 1, 7), ElementsAre(-0.007405931130051613f, -0.015564843080937862f,
                                                -0.046515122056007385f, 0.01794159598648548f));
  // The C library's ln and cos may differ in the last bit of a float64, so one unit of float32 is allowed.
  const std::vector<float> normal = first(drawn(conv_graph(InitKind::kaiming_normal_fan_out), 0, 7), 6);
  const std::vector<float> wanted = {-0.09850315004587173f, 0.1116395816206932f,  0.02447737753391266f,
                                     -0.25953465700149536f, 0.19774119555950165f, 0.02554377168416977f};
  for (std::size_t e = 0; e < wanted.size(); ++e) EXPECT_FLOAT_EQ(normal[e], wanted[e]) << e;
}

TEST(Init, ConstantsAreConstant) {
  GraphBuilder b;
  const Graph g = b.finish(b.batch_norm(b.input({3})), CrossEntropyAttrs{});
  EXPECT_THAT(drawn(g, 0, 1), ElementsAre(1, 1, 1));
  EXPECT_THAT(drawn(g, 1, 1), ElementsAre(0, 0, 0));
  EXPECT_THAT(drawn(conv_graph(InitKind::kaiming_uniform), 1, 1), ElementsAre(0, 0, 0, 0));  // the bias
}

TEST(Init, DependsOnSeedAndParameterAndNotOnTheOrderOfCalls) {
  const Graph g = conv_graph(InitKind::torch_linear, 64);
  const std::vector<float> weight = drawn(g, 0, 3);
  const std::vector<float> other = drawn(g, 2, 3);
  EXPECT_EQ(drawn(g, 2, 3), other);
  EXPECT_EQ(drawn(g, 0, 3), weight);
  EXPECT_NE(drawn(g, 0, 4), weight);
  EXPECT_NE(drawn(g, 0, 3 + (std::uint64_t{1} << 32)), weight);  // all 64 bits of the seed count
  for (std::size_t e = 0; e < 64; ++e) EXPECT_NE(weight[e], other[e]);
}

struct Moments {
  double mean = 0, variance = 0, largest = 0;
};
Moments moments(const std::vector<float>& values) {
  Moments m;
  for (const float v : values) m.mean += v / static_cast<double>(values.size());
  for (const float v : values) {
    m.variance += (v - m.mean) * (v - m.mean) / static_cast<double>(values.size());
    m.largest = std::max(m.largest, std::abs(static_cast<double>(v)));
  }
  return m;
}

// With n draws of variance s^2 the mean has the standard deviation s / sqrt(n), the variance s^2 sqrt((k - 1)
// / n) with the kurtosis k = 9/5 (uniform) or 3 (normal). Five of them are allowed.
void expect_moments(const std::vector<float>& values, double variance, double kurtosis) {
  const auto n = static_cast<double>(values.size());
  const Moments m = moments(values);
  EXPECT_NEAR(m.mean, 0, 5 * std::sqrt(variance / n));
  EXPECT_NEAR(m.variance, variance, 5 * variance * std::sqrt((kurtosis - 1) / n));
}

TEST(Init, UniformKindsHaveTheirBoundsAndMoments) {
  const std::int64_t channels = 5000;  // 45,000 weights of fan-in 9
  const std::vector<float> torch = drawn(conv_graph(InitKind::torch_linear, channels), 0, 1);
  expect_moments(torch, 1.0 / 9 / 3, 1.8);
  EXPECT_LE(moments(torch).largest, 1.0 / 3);
  EXPECT_GT(moments(torch).largest, 0.333);
  const std::vector<float> plain = drawn(conv_graph(InitKind::kaiming_uniform, channels), 0, 1);
  expect_moments(plain, 1.0 / 9, 1.8);
  const std::vector<float> before_relu = drawn(conv_graph(InitKind::kaiming_uniform, channels, true), 0, 1);
  expect_moments(before_relu, 2.0 / 9, 1.8);
}

TEST(Init, NormalKindHasItsMomentsAndTails) {
  const std::int64_t channels = 5000;
  const std::vector<float> normal = drawn(conv_graph(InitKind::kaiming_normal_fan_out, channels), 0, 1);
  const double variance = 2.0 / (9.0 * 5000);
  expect_moments(normal, variance, 3);
  double beyond_two = 0, odd_even = 0;
  for (std::size_t e = 0; e < normal.size(); ++e) {
    beyond_two += std::abs(normal[e]) > 2 * std::sqrt(variance) ? 1 : 0;
    if (e % 2 == 1) odd_even += static_cast<double>(normal[e]) * normal[e - 1] / variance;
  }
  const auto n = static_cast<double>(normal.size());
  EXPECT_NEAR(beyond_two / n, 0.0455, 5 * std::sqrt(0.0455 / n));
  EXPECT_NEAR(odd_even / (n / 2), 0, 5 / std::sqrt(n / 2));  // neighbours are independent
}

TEST(Init, KaimingUniformSeesAReluBehindABatchNorm) {
  GraphBuilder b;
  const ValueId x = b.conv2d(b.input({1, 4, 4}), {64, 3, 3}, "c", InitKind::kaiming_uniform);
  const Graph g = b.finish(b.flatten(b.relu(b.batch_norm(x))), CrossEntropyAttrs{});
  EXPECT_EQ(drawn(g, 0, 1), drawn(conv_graph(InitKind::kaiming_uniform, 64, true), 0, 1));
}

TEST(Init, WrongSizesAreADefect) {
  const Graph g = conv_graph(InitKind::torch_linear);
  std::vector<float> small(3);
  EXPECT_THROW(initialise_plain(g, 0, 1, small), InternalError);
  EXPECT_THROW(initialise_plain(g, 99, 1, small), InternalError);
}

}  // namespace
}  // namespace lockstep
