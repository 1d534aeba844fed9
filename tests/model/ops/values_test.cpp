#include <algorithm>
#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/numerics/philox.h"
#include "model/ops/arithmetic/add.h"
#include "model/ops/linear/dense.h"
#include "model/ops/norm/batch_norm.h"
#include "model/ops/op_run.h"
#include "model/ops/pool/avg_pool.h"
#include "model/ops/pool/global_avg_pool.h"
#include "model/ops/pool/max_pool.h"
#include "model/ops/random/dropout.h"
#include "model/ops/shape/flatten.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---- Values worked out by hand ----

TEST(Conv2d, SmallValues) {
  OpRun run({"", {{1, 3, 3}}, [](auto& b, const auto& x) { return b.conv2d(x[0], conv(1, 2, 2)); }, 1, 1});
  run.inputs[0] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  run.parameters = {{1, 10, 100, 1000}, {0.5}};
  // 1*1 + 2*10 + 4*100 + 5*1000 = 5421: cross-correlation, the kernel is not flipped.
  EXPECT_THAT(run.forward(), ElementsAre(5421.5, 6532.5, 8754.5, 9865.5));
}

TEST(Conv2d, PaddingIsZeroAndStrideSkips) {
  OpRun run(
      {"", {{1, 3, 3}}, [](auto& b, const auto& x) { return b.conv2d(x[0], conv(1, 3, 3, 2, 1)); }, 1, 1});
  run.inputs[0] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  run.parameters = {Tensor64(9, 1.0), {0}};
  EXPECT_THAT(run.forward(), ElementsAre(1 + 2 + 4 + 5, 2 + 3 + 5 + 6, 4 + 5 + 7 + 8, 5 + 6 + 8 + 9));
}

TEST(Conv2d, GroupsSeeTheirOwnChannels) {
  OpRun run(
      {"", {{4, 1, 1}}, [](auto& b, const auto& x) { return b.conv2d(x[0], conv(2, 1, 1, 1, 0, 2)); }, 1, 1});
  run.inputs[0] = {1, 2, 3, 4};
  run.parameters = {{1, 10, 100, 1000}, {0, 0}};
  EXPECT_THAT(run.forward(), ElementsAre(21, 4300));
}

TEST(Dense, SmallValues) {
  OpRun run({"", {{2}}, [](auto& b, const auto& x) { return b.dense(x[0], {2, true}); }, 2, 2});
  run.inputs[0] = {1, 2, 3, 4};
  run.parameters = {{1, 10, 100, 1000}, {0.25, 0.5}};
  EXPECT_THAT(run.forward(), ElementsAre(21.25, 2100.5, 43.25, 4300.5));
}

TEST(MaxPool, TheFirstOfEqualElementsTakesTheGradient) {
  OpRun run({"",
             {{1, 2, 4}},
             [](auto& b, const auto& x) {
               return b.max_pool(x[0], {2, 2, 2, 2, 0, 0});
             },
             1,
             1});
  run.inputs[0] = {1, 5, 0, 0, 5, 5, 0, 0};
  EXPECT_THAT(run.forward(), ElementsAre(5, 0));
  EXPECT_THAT(run.backward({1, 2}).inputs[0], ElementsAre(0, 1, 2, 0, 0, 0, 0, 0));
}

TEST(MaxPool, PaddingNeverWins) {
  OpRun run({"",
             {{1, 2, 2}},
             [](auto& b, const auto& x) {
               return b.max_pool(x[0], {2, 2, 2, 2, 1, 1});
             },
             1,
             1});
  run.inputs[0] = {-1, -2, -3, -4};
  EXPECT_THAT(run.forward(), ElementsAre(-1, -2, -3, -4));
  run.inputs[0][0] = -std::numeric_limits<double>::infinity();
  EXPECT_EQ(run.forward()[0], -std::numeric_limits<double>::infinity());
}

TEST(AvgPool, PaddingIsNotCounted) {
  OpRun run({"",
             {{1, 2, 2}},
             [](auto& b, const auto& x) {
               return b.avg_pool(x[0], {2, 2, 1, 1, 1, 1});
             },
             1,
             1});
  run.inputs[0] = {1, 2, 3, 4};
  EXPECT_THAT(run.forward(), ElementsAre(1, 1.5, 2, 2, 2.5, 3, 3, 3.5, 4));
}

TEST(GlobalAvgPool, SmallValues) {
  OpRun run({"", {{2, 1, 2}}, [](auto& b, const auto& x) { return b.global_avg_pool(x[0]); }, 1, 1});
  run.inputs[0] = {1, 2, 10, 30};
  EXPECT_THAT(run.forward(), ElementsAre(1.5, 20));
}

OpCase bn_case(Shape in, std::int64_t rows, std::int64_t valid) {
  return {"",
          {std::move(in)},
          [](auto& b, const auto& x) {
            return b.batch_norm(x[0], {1e-5, 0.1});
          },
          rows,
          valid};
}

TEST(BatchNorm, StatisticsComeFromValidRowsAlone) {
  OpRun run(bn_case({1}, 4, 3));
  run.inputs[0] = {1, 2, 6, 1000};
  run.parameters = {{2}, {10}};
  const Tensor64 y = run.forward();
  EXPECT_DOUBLE_EQ(run.batch_statistics[0][0], 3);                  // mean
  EXPECT_DOUBLE_EQ(run.batch_statistics[1][0], (4 + 1 + 9) / 2.0);  // unbiased: n - 1
  const double deviation = std::sqrt(14 / 3.0 + 1e-5);              // biased: n
  EXPECT_DOUBLE_EQ(y[0], 2 * (1 - 3) / deviation + 10);
  EXPECT_DOUBLE_EQ(y[3], 2 * (1000 - 3) / deviation + 10);  // an empty row: normalised likewise
  const OpRun::Gradients g = run.backward({1, -2, 3, 1e6});
  EXPECT_EQ(g.inputs[0][3], 0);
  EXPECT_DOUBLE_EQ(g.parameters[1][0], 2);  // and it enters no gradient
}

TEST(BatchNorm, OneElementHasNoVariance) {
  OpRun run(bn_case({2}, 2, 1));
  run.inputs[0] = {4, -7, 1, 1};
  run.parameters = {{2, 2}, {10, 20}};
  EXPECT_THAT(run.forward(), ElementsAre(10, 20, ::testing::_, ::testing::_));
  EXPECT_THAT(run.batch_statistics[0], ElementsAre(4, -7));
  EXPECT_THAT(run.batch_statistics[1], ElementsAre(0, 0));
}

TEST(BatchNorm, NoValidRowGivesZeros) {
  OpRun run(bn_case({2}, 2, 0));
  EXPECT_THAT(run.forward(), ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(run.batch_statistics, ElementsAre(ElementsAre(0, 0), ElementsAre(0, 0)));
  EXPECT_THAT(run.backward({1, 1, 1, 1}).parameters, ElementsAre(ElementsAre(0, 0), ElementsAre(0, 0)));
}

TEST(BatchNorm, InferenceUsesRunningStatistics) {
  OpRun run(bn_case({1}, 2, 2));
  run.ctx.training = false;
  run.inputs[0] = {5, 9};
  run.parameters = {{3}, {1}};
  run.statistics = {{5}, {4 - 1e-5}};
  const Tensor64 y = run.forward();
  EXPECT_DOUBLE_EQ(y[0], 1);
  EXPECT_DOUBLE_EQ(y[1], 1 + 3 * 4 / 2.0);
  EXPECT_TRUE(run.batch_statistics.empty());
}

TEST(Relu, ZeroHasNoGradientAndNanStays) {
  OpRun run({"", {{4}}, [](auto& b, const auto& x) { return b.relu(x[0]); }, 1, 1});
  run.inputs[0] = {-1, 0, 2, std::nan("")};
  const Tensor64 y = run.forward();
  EXPECT_EQ(y[0], 0);
  EXPECT_EQ(y[2], 2);
  EXPECT_TRUE(std::isnan(y[3]));
  run.inputs[0][3] = 1;
  EXPECT_THAT(run.backward({1, 1, 1, 1}).inputs[0], ElementsAre(0, 0, 1, 1));
}

// Computed with 40 digits.
TEST(Gelu, ValuesAndSlopes) {
  OpRun run({"", {{8}}, [](auto& b, const auto& x) { return b.gelu(x[0]); }, 1, 1});
  run.inputs[0] = {0.5, 1, -1, 2, -2, -5, -6, -0.75};
  const Tensor64 y = {0.34571400982514392204,     0.84119199060827670478,   -0.15880800939172329522,
                      1.9545976940877750188,      -0.045402305912224981219, -2.2917961966295060456e-7,
                      -8.4396467007622970837e-11, -0.17003944483437969582};
  const Tensor64 slope = {0.86736990353464231156,     1.0829640838457825551,    -0.08296408384578255514,
                          1.0860992566236183816,      -0.086099256623618381565, -1.5463619875325945956e-6,
                          -7.7099739309536955117e-10, 0.0010617438625857023423};
  const Tensor64 got = run.forward(), dx = run.backward(Tensor64(8, 3.0)).inputs[0];
  for (std::size_t i = 0; i < y.size(); ++i) {
    EXPECT_NEAR(got[i], y[i], 1e-13 * std::abs(y[i]));
    // Near the minimum two terms cancel.
    EXPECT_NEAR(dx[i], 3 * slope[i], 1e-13 * std::min(1.0, 100 * std::abs(slope[i])));
    const double x = run.inputs[0][i];
    EXPECT_NEAR(got[i], x / 2 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x))),
                1e-15);
  }
}

TEST(Gelu, Ends) {
  constexpr double infinity = std::numeric_limits<double>::infinity(), large = 1e300;
  OpRun run({"", {{7}}, [](auto& b, const auto& x) { return b.gelu(x[0]); }, 1, 1});
  run.inputs[0] = {0, -0.0, large, -large, infinity, -infinity, std::nan("")};
  const Tensor64 y = run.forward(), dx = run.backward(Tensor64(7, 1.0)).inputs[0];
  EXPECT_EQ(Tensor64(y.begin(), y.begin() + 5), (Tensor64{0, 0, large, 0, infinity}));
  EXPECT_TRUE(!std::signbit(y[0]) && std::signbit(y[1]) && std::signbit(y[3]));
  EXPECT_TRUE(std::isnan(y[5]) && std::isnan(y[6]));
  EXPECT_EQ(Tensor64(dx.begin(), dx.begin() + 4), (Tensor64{0.5, 0.5, 1, 0}));
  EXPECT_TRUE(std::isnan(dx[6]));
}

TEST(Softmax, LargeLogitsDoNotOverflow) {
  OpRun run({"", {{2}}, [](auto& b, const auto& x) { return b.softmax(x[0]); }, 2, 2});
  run.inputs[0] = {1e4, 1e4, -1e4, -1e4 + std::log(3.0)};
  const Tensor64 y = run.forward();
  EXPECT_DOUBLE_EQ(y[0], 0.5);
  EXPECT_NEAR(y[2], 0.25, 1e-12);
  EXPECT_NEAR(y[3], 0.75, 1e-12);
}

OpCase dropout_case(double rate, std::int64_t rows) {
  return {"", {{64}}, [rate](auto& b, const auto& x) { return b.dropout(x[0], {rate}); }, rows, rows};
}

TEST(Dropout, FollowsTheStatedFormula) {
  OpRun run(dropout_case(0.25, 3));
  run.ctx.node = 17;
  const Tensor64 y = run.forward();
  const PhiloxKey key = random_key(run.ctx.seed, Purpose::dropout, run.ctx.step, 17);
  for (std::size_t n = 0; n < 3; ++n) {
    for (std::size_t e = 0; e < 64; ++e) {
      const bool kept =
          uniform01(random_block(key, static_cast<std::uint64_t>(run.samples[n]), e / 4).v[e % 4]) >= 0.25f;
      EXPECT_DOUBLE_EQ(y[n * 64 + e], kept ? run.inputs[0][n * 64 + e] / 0.75 : 0.0);
    }
  }
}

TEST(Dropout, DependsOnTheSampleAndNotOnItsRow) {
  OpRun run(dropout_case(0.5, 2));
  run.inputs[0].assign(128, 1.0);
  const Tensor64 y = run.forward();
  std::swap(run.samples[0], run.samples[1]);
  const Tensor64 swapped = run.forward();
  for (std::size_t e = 0; e < 64; ++e) {
    EXPECT_EQ(y[e], swapped[64 + e]);
    EXPECT_EQ(y[64 + e], swapped[e]);
  }
  run.ctx.step += 1;
  EXPECT_NE(run.forward(), swapped);
}

TEST(Dropout, KeepsTheStatedShare) {
  OpRun run(dropout_case(0.3, 200));
  run.inputs[0].assign(run.inputs[0].size(), 1.0);
  double kept = 0;
  for (const double y : run.forward()) kept += y > 0 ? 1 : 0;
  const double n = 200 * 64;
  EXPECT_NEAR(kept / n, 0.7, 5 * std::sqrt(0.3 * 0.7 / n));  // five standard deviations
}

TEST(Dropout, PassesOnOutsideOfTraining) {
  OpRun run(dropout_case(0.5, 2));
  run.ctx.training = false;
  EXPECT_EQ(run.forward(), run.inputs[0]);
}

TEST(Dropout, WholeNumberRuleDecidesAsTheRealOne) {
  for (const double rate : {0.0, 1e-9, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 0.99999999}) {
    const std::uint32_t threshold = ops::dropout_threshold(rate);
    for (std::int64_t near = -2; near <= 2; ++near) {
      const std::int64_t upper = std::clamp<std::int64_t>(std::int64_t{threshold} + near, 0, (1 << 24) - 1);
      const auto word = static_cast<std::uint32_t>(upper << 8 | 0x5a);
      EXPECT_EQ(ops::dropout_keeps(word, threshold), uniform01(word) >= rate) << rate << " " << near;
    }
  }
}

// ---- Shapes and costs ----

TEST(Shapes, OutputsFollowTheFormulas) {
  const auto shape = [](const OpAttrs& attrs, const Shape& in) {
    return op_entry(attrs).infer(attrs, {in}, "l");
  };
  EXPECT_EQ(shape(conv(32, 3, 3), {1, 28, 28}), (Shape{32, 26, 26}));
  EXPECT_EQ(shape(conv(8, 3, 3, 2, 1), {3, 32, 33}), (Shape{8, 16, 17}));
  EXPECT_EQ(shape(conv(8, 7, 7, 2, 3), {3, 224, 224}), (Shape{8, 112, 112}));
  EXPECT_EQ(shape(MaxPoolAttrs{2, 2, 2, 2, 0, 0}, {4, 5, 4}), (Shape{4, 2, 2}));
  EXPECT_EQ(shape(AvgPoolAttrs{3, 3, 2, 2, 1, 1}, {4, 7, 8}), (Shape{4, 4, 4}));
  EXPECT_EQ(shape(GlobalAvgPoolAttrs{}, {4, 7, 8}), (Shape{4, 1, 1}));
  EXPECT_EQ(shape(FlattenAttrs{}, {4, 7, 8}), (Shape{224}));
}

TEST(Shapes, WhatDoesNotFitIsRefusedWithLayerAndShapes) {
  struct Bad {
    OpAttrs attrs;
    std::vector<Shape> inputs;
    std::vector<std::string> said;
  };
  const std::int64_t huge = std::int64_t{1} << 62;
  const double nan = std::nan("");
  const std::vector<Bad> cases = {
      {conv(4, 5, 5), {{3, 4, 9}}, {"5x5", "3x4x9"}},
      {conv(4, 3, 3), {{100}}, {"(channels, height, width)", "100"}},
      {conv(4, 3, 3, 1, 0, 2), {{3, 9, 9}}, {"2 groups", "3x9x9", "4 output"}},
      {conv(3, 3, 3, 1, 0, 2), {{4, 9, 9}}, {"2 groups", "3 output"}},
      {conv(4, 3, 3, 1, 0, 0), {{4, 9, 9}}, {"0 groups"}},
      {conv(0, 3, 3), {{3, 9, 9}}, {"0 output channels"}},
      {conv(4, 0, 3), {{3, 9, 9}}, {"0x3"}},
      {conv(4, 3, 3, 0), {{3, 9, 9}}, {"0x0", "stride"}},
      {conv(4, 3, 3, 1, -1), {{3, 9, 9}}, {"-1x-1", "padding"}},
      {conv(4, huge, huge, 1, huge), {{3, 9, 9}}, {"kernel"}},
      {conv(huge, 1, 1), {{3, 9, 9}}, {"output channels"}},
      {conv(1 << 30, 1 << 20, 1, 1, 1 << 20), {{3, 9, 9}}, {"weight", "2^40"}},
      {DenseAttrs{10, true}, {{2, 3, 4}}, {"2x3x4", "flatten", "24"}},
      {DenseAttrs{0, true}, {{4}}, {"0 output features"}},
      {DenseAttrs{huge, true}, {{huge}}, {"output features"}},
      {MaxPoolAttrs{3, 3, 1, 1, 0, 0}, {{5, 2, 9}}, {"3x3", "5x2x9"}},
      {MaxPoolAttrs{2, 2, 1, 1, 2, 2}, {{5, 9, 9}}, {"padding 2x2", "window 2x2"}},
      {AvgPoolAttrs{2, 2, 1, 1, 0, 2}, {{5, 9, 9}}, {"padding 0x2", "window 2x2"}},
      {AvgPoolAttrs{2, 2, 0, 0, 0, 0}, {{5, 9, 9}}, {"stride"}},
      {GlobalAvgPoolAttrs{}, {{5}}, {"(channels, height, width)"}},
      {BatchNormAttrs{}, {{5, 6}}, {"5x6"}},
      {BatchNormAttrs{0, 0.1}, {{5}}, {"epsilon"}},
      {BatchNormAttrs{nan, 0.1}, {{5}}, {"epsilon"}},
      {BatchNormAttrs{1e-5, 1.5}, {{5}}, {"momentum"}},
      {BatchNormAttrs{1e-5, nan}, {{5}}, {"momentum"}},
      {DropoutAttrs{1.0}, {{5}}, {"rate"}},
      {DropoutAttrs{-0.1}, {{5}}, {"rate"}},
      {DropoutAttrs{nan}, {{5}}, {"rate"}},
      {AddAttrs{}, {{2, 3, 3}, {4, 3, 3}}, {"2x3x3", "4x3x3", "equal"}},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    try {
      op_entry(cases[i].attrs).infer(cases[i].attrs, cases[i].inputs, "the_layer");
      ADD_FAILURE() << "case " << i << " was taken";
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), HasSubstr("layer 'the_layer'")) << "case " << i;
      for (const std::string& part : cases[i].said)
        EXPECT_THAT(error.what(), HasSubstr(part)) << "case " << i;
    }
  }
}

TEST(Flops, CountMultiplyAddsAsTwo) {
  const auto flops = [](const OpAttrs& attrs, const Shape& in) {
    return op_entry(attrs).flops(attrs, {in}, op_entry(attrs).infer(attrs, {in}, "l"));
  };
  EXPECT_EQ(flops(conv(32, 3, 3), {1, 28, 28}), 2 * 9 * 32 * 26 * 26);
  EXPECT_EQ(flops(conv(6, 3, 3, 1, 1, 2), {4, 8, 8}), 2 * 2 * 9 * 6 * 8 * 8);
  EXPECT_EQ(flops(DenseAttrs{10, true}, {5408}), 2 * 10 * 5408);
  EXPECT_EQ(flops(FlattenAttrs{}, {2, 3, 4}), 0);
  // What no machine could run saturates instead of wrapping round.
  const std::int64_t side = 1 << 20;
  EXPECT_EQ(flops(conv(1, side, side, 1, side - 2), {1, 1, 1}), std::numeric_limits<std::int64_t>::max());
}

}  // namespace
}  // namespace lockstep
