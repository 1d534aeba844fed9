// The CPU kernel of batch norm, with and without residual and ReLU, against the float64 reference.
#include "model/cpu/op_harness.h"

namespace lockstep::op_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr double epsilon = 1e-5;

struct Case {
  Shape shape;
  std::int64_t block;
  std::int64_t rows, valid;
  bool relu = false, residual = false;
  float mean = 0.3f, deviation = 1;
};

std::string text(const Case& c) {
  return c.shape.text() + " block " + std::to_string(c.block) + " valid " + std::to_string(c.valid) + " of " +
         std::to_string(c.rows) + (c.residual ? " +add" : "") + (c.relu ? " +relu" : "");
}

/// What the bounds are made of, per channel, in float64.
struct Channel {
  double mean = 0, variance = 0, inverse = 0, scale = 0;
  double diff_sum = 0;       // of |g|
  double diff_products = 0;  // of |g| |x - mean|
};

class BatchNormCheck {
 public:
  explicit BatchNormCheck(const Case& c)
      : c_(c),
        channels_(c.shape[0]),
        area_(c.shape.elements() / c.shape[0]),
        op_(cpu::make_batch_norm, setup(c)) {}

  void run() {
    SCOPED_TRACE(text(c_));
    fill();
    op_.forward();
    const std::vector<float> y = op_.output();
    const std::vector<float> written = op_.gradients;
    reference_forward(y);
    for (const Order order : {Order::backward, Order::mixed}) {
      op_.forward(order);
      EXPECT_TRUE(same_bits(y, op_.output()) && same_bits(written, op_.gradients));
    }
    op_.backward();
    const std::vector<float> dx = op_.diff_input(0);
    const std::vector<float> all = op_.gradients;
    reference_backward(y, dx);
    for (const Order order : {Order::backward, Order::mixed}) {
      op_.backward(order);
      EXPECT_TRUE(same_bits(dx, op_.diff_input(0)) && same_bits(all, op_.gradients));
    }
    parts_alone(dx, all);
  }

 private:
  static OpSetup setup(const Case& c) {
    OpSetup s{BatchNormAttrs{epsilon, 0.1}, {c.shape}, c.block, c.rows, c.valid, true, c.relu, c.residual};
    if (c.residual) s.inputs.push_back(c.shape);
    return s;
  }
  std::size_t channel_of(std::size_t e) const { return e / at(area_) % at(channels_); }
  double count() const { return static_cast<double>(c_.valid * area_); }

  void fill() {
    x_ = random_floats(op_.input_elements(0), 1, c_.mean, c_.deviation);
    op_.set_input(0, x_);
    if (c_.residual) {
      residual_ = random_floats(op_.input_elements(1), 2);
      op_.set_input(1, residual_);
    }
    diff_ = random_floats(op_.output_elements(), 3);
    std::fill(diff_.begin() + c_.valid * c_.shape.elements(), diff_.end(), 0.0f);
    op_.set_diff_output(diff_);
    weight_ = random_floats(channels_, 4, 1, 0.5f);
    bias_ = random_floats(channels_, 5);
    std::copy(weight_.begin(), weight_.end(), op_.parameters.begin() + op_.binding().parameters[0]);
    std::copy(bias_.begin(), bias_.end(), op_.parameters.begin() + op_.binding().parameters[1]);
  }

  std::vector<float> gradient(std::int64_t begin) const {
    return {op_.gradients.begin() + begin, op_.gradients.begin() + begin + channels_};
  }

  void reference_forward(const std::vector<float>& y) {
    const Tensor64 x = widen(x_);
    const Tensor64 weight = widen(weight_);
    const Tensor64 bias = widen(bias_);
    Tensor64 expected;
    std::vector<Tensor64> statistics;
    op_entry(BatchNormAttrs{})
        .forward(op_.node(), op_.graph(), op_.reference_context(), {&x}, {&weight, &bias}, {}, expected,
                 statistics);
    moments();
    Tensor64 tolerance(expected.size(), 0.0);
    if (c_.valid > 0) {
      for (std::size_t e = 0; e < expected.size(); ++e) {
        const Channel& of = channel_[channel_of(e)];
        // Rounding of the mean; x - mean; scale (2), product, mean and deviation as computed; bias.
        tolerance[e] =
            std::abs(of.scale) * (std::abs(of.mean) + 7 * std::abs(x[e] - of.mean)) + std::abs(expected[e]);
        if (c_.residual) {
          expected[e] += static_cast<double>(residual_[e]);
          tolerance[e] += std::abs(expected[e]);
        }
        if (c_.relu) expected[e] = std::max(expected[e], 0.0);
        tolerance[e] *= unit;
      }
    }
    expect_within(
        y, expected, [&](std::size_t e) { return tolerance[e]; }, "output");

    // Sums in float64, then one rounding each.
    const auto rows = static_cast<double>(c_.valid);
    for (Tensor64& s : statistics) {
      for (double& v : s) v *= rows;
    }
    const auto& at_statistics = op_.binding().statistics;
    expect_within(
        gradient(at_statistics[0]), statistics[0],
        [&](std::size_t i) {
          const Channel& of = channel_[i];
          return rows * (1.001 * unit * std::abs(of.mean) + 1e-9 * std::sqrt(of.variance));
        },
        "rows times mean");
    expect_within(
        gradient(at_statistics[1]), statistics[1],
        [&](std::size_t i) { return 1.001 * unit * statistics[1][i] + 1e-25; }, "rows times variance");
  }

  void moments() {
    channel_.assign(at(channels_), {});
    if (c_.valid == 0) return;
    const std::size_t valid = at(c_.valid * c_.shape.elements());
    for (std::size_t e = 0; e < valid; ++e)
      channel_[channel_of(e)].mean += static_cast<double>(x_[e]) / count();
    for (std::size_t e = 0; e < valid; ++e) {
      Channel& of = channel_[channel_of(e)];
      const double d = static_cast<double>(x_[e]) - of.mean;
      of.variance += d * d / count();
      of.diff_sum += std::abs(static_cast<double>(diff_[e]));
      of.diff_products += std::abs(static_cast<double>(diff_[e]) * d);
    }
    for (std::size_t i = 0; i < at(channels_); ++i) {
      channel_[i].inverse = 1 / std::sqrt(channel_[i].variance + epsilon);
      channel_[i].scale = static_cast<double>(weight_[i]) * channel_[i].inverse;
    }
  }

  void reference_backward(const std::vector<float>& y, const std::vector<float>& dx) {
    const Tensor64 x = widen(x_);
    const Tensor64 weight = widen(weight_);
    const Tensor64 bias = widen(bias_);
    // Which side of the ReLU an output is on, its own bits decide.
    Tensor64 diff = widen(diff_);
    for (std::size_t e = 0; c_.relu && e < diff.size(); ++e) diff[e] = y[e] > 0 ? diff[e] : 0.0;
    Tensor64 expected(x.size(), 0.0);
    Tensor64 weight_diff(at(channels_), 0.0);
    Tensor64 bias_diff(at(channels_), 0.0);
    op_entry(BatchNormAttrs{})
        .backward(op_.node(), op_.graph(), op_.reference_context(), {&x}, {&weight, &bias},
                  Tensor64(x.size()), diff, {&expected}, {&weight_diff, &bias_diff});
    const double n = std::max(1.0, count());
    expect_within(
        gradient(op_.binding().parameters[0]), weight_diff,
        [&](std::size_t i) {
          const Channel& of = channel_[i];
          return unit * of.inverse * (std::abs(of.mean) * of.diff_sum + 8 * of.diff_products);
        },
        "gradient of weight");
    expect_within(
        gradient(op_.binding().parameters[1]), bias_diff,
        [&](std::size_t i) { return 4 * unit * channel_[i].diff_sum; }, "gradient of bias");
    expect_within(
        dx, expected,
        [&](std::size_t e) {
          if (c_.valid == 0) return 0.0;
          const Channel& of = channel_[channel_of(e)];
          const double d = std::abs(x[e] - of.mean);
          const double squared = of.inverse * of.inverse;
          // g and its mean; x - mean times the mean of products, whose own error has the terms of the
          // weight's gradient; the rounding of the mean.
          const double terms = 6 * std::abs(diff[e]) + 9 * of.diff_sum / n +
                               d * squared * (std::abs(of.mean) * of.diff_sum + 16 * of.diff_products) / n +
                               std::abs(of.mean) * squared * of.diff_products / n;
          return unit * std::abs(of.scale) * terms;
        },
        "gradient of the input");
    if (c_.residual) expect_equal(op_.diff_input(1), diff, "gradient of the residual");
  }

  /// Each gradient comes out the same where the other is not wanted.
  void parts_alone(const std::vector<float>& dx, const std::vector<float>& all) {
    const auto wanted = op_.binding().diff_inputs;
    if (c_.residual) {
      const auto gated = op_.diff_input(1);
      op_.binding().diff_inputs[1] = cpu::none;
      op_.backward();
      EXPECT_TRUE(same_bits(dx, op_.diff_input(0)));
      op_.binding().diff_inputs = {cpu::none, wanted[1]};
      op_.backward();
      EXPECT_TRUE(same_bits(gated, op_.diff_input(1)));
    }
    op_.binding().diff_inputs.assign(wanted.size(), cpu::none);
    op_.backward();
    EXPECT_TRUE(same_bits(all, op_.gradients));
    for (const float v : op_.diff_input(0)) ASSERT_TRUE(std::isnan(v)) << "written though nobody needs it";
    op_.binding().diff_inputs = wanted;
  }

  Case c_;
  std::int64_t channels_, area_;
  CpuOp op_;
  std::vector<float> x_, residual_, diff_, weight_, bias_;
  std::vector<Channel> channel_;
};

TEST(CpuBatchNorm, EqualsTheReferenceInEveryLayoutAndFusion) {
  for (const bool relu : {false, true}) {
    for (const bool residual : {false, true}) {
      for (const std::int64_t block : {1, 2, 4, 8, 16, 32, 0}) {
        BatchNormCheck({Shape{96, 5, 7}, block, 4, 4, relu, residual}).run();
        BatchNormCheck({Shape{32, 3, 1}, block, 5, 3, relu, residual}).run();
      }
      BatchNormCheck({Shape{6, 9, 8}, 1, 3, 2, relu, residual}).run();
      BatchNormCheck({Shape{6, 9, 8}, 3, 3, 2, relu, residual}).run();    // a block that is no part of 16
      BatchNormCheck({Shape{42, 3, 4}, 21, 3, 3, relu, residual}).run();  // nor a multiple
      BatchNormCheck({Shape{10}, 1, 7, 6, relu, residual}).run();         // features
      BatchNormCheck({Shape{17}, 1, 9, 9, relu, residual}).run();         // a single lane is left over
      BatchNormCheck({Shape{3, 1, 17}, 1, 3, 3, relu, residual}).run();   // a single pixel is
      BatchNormCheck({Shape{67}, 1, 33, 33, relu, residual}).run();
      BatchNormCheck({Shape{64, 1, 1}, 16, 9, 8, relu, residual}).run();  // one pixel
    }
  }
}

TEST(CpuBatchNorm, ManyRowsInSeveralTasks) {
  BatchNormCheck check({Shape{64, 18, 17}, 16, 16, 15, true, true});
  check.run();
  BatchNormCheck({Shape{64, 18, 17}, 1, 16, 15, true, false}).run();
  BatchNormCheck({Shape{3000}, 1, 90, 80, true, false}).run();
  const CpuOp op(cpu::make_batch_norm, {BatchNormAttrs{}, {Shape{64, 18, 17}}, 16, 16, 16});
  EXPECT_EQ(op.kernel().forward_phases()[0].tasks, 4) << "the test of task orders needs several";
}

TEST(CpuBatchNorm, NoneOrOneValidRow) {
  for (const std::int64_t valid : {0, 1}) {
    for (const std::int64_t block : {1, 16}) {
      BatchNormCheck({Shape{32, 4, 3}, block, 3, valid, true, true}).run();
      BatchNormCheck({Shape{32, 4, 3}, block, 3, valid, false, false}).run();
    }
    BatchNormCheck({Shape{9}, 1, 3, valid, true, false}).run();  // one element in all: no unbiased variance
  }
}

TEST(CpuBatchNorm, AMeanFarFromZeroCostsNoMoreThanItsRounding) {
  // The bounds hold for a deviation of 1 around 10,000, and in reverse.
  BatchNormCheck({Shape{32, 16, 16}, 16, 4, 4, false, false, 10000, 1}).run();
  BatchNormCheck({Shape{32, 16, 16}, 1, 4, 4, true, false, -10000, 1}).run();
  BatchNormCheck({Shape{32, 16, 16}, 16, 4, 4, false, false, 0, 1e-4f}).run();
  BatchNormCheck({Shape{32, 16, 16}, 16, 4, 4, false, false, 0, 1e15f}).run();
}

TEST(CpuBatchNorm, AConstantChannelHasNoVarianceAtAll) {
  for (const float value : {0.0f, 3.3f, 1e6f, -7e20f}) {
    CpuOp op(cpu::make_batch_norm, {BatchNormAttrs{}, {Shape{16, 5, 5}}, 16, 4, 4});
    op.set_input(0, std::vector<float>(at(op.input_elements(0)), value));
    const auto& b = op.binding();
    for (std::int64_t c = 0; c < 16; ++c) op.parameters[at(b.parameters[0] + c)] = 2;
    for (std::int64_t c = 0; c < 16; ++c) op.parameters[at(b.parameters[1] + c)] = 0.5f;
    op.forward();
    for (const float y : op.output()) ASSERT_EQ(y, 0.5f);
    for (std::int64_t c = 0; c < 16; ++c) {
      ASSERT_EQ(op.gradients[at(b.statistics[0] + c)], 4 * value);
      ASSERT_EQ(op.gradients[at(b.statistics[1] + c)], 0);
    }
  }
}

TEST(CpuBatchNorm, EmptyRowsChangeNothing) {
  // What the empty rows hold, and what comes back in them, enters no statistic and no gradient.
  const Shape shape{32, 5, 5};
  std::vector<std::vector<float>> seen;
  for (const float filler : {0.0f, 1e9f}) {
    CpuOp op(cpu::make_batch_norm, {BatchNormAttrs{}, {shape, shape}, 16, 6, 4, true, true, true});
    auto x = random_floats(op.input_elements(0), 1);
    auto diff = random_floats(op.output_elements(), 2);
    std::fill(x.begin() + 4 * shape.elements(), x.end(), filler);
    std::fill(diff.begin() + 4 * shape.elements(), diff.end(), 0.0f);
    op.set_input(0, x);
    op.set_input(1, random_floats(op.input_elements(1), 3));
    op.set_diff_output(diff);
    std::fill_n(op.parameters.begin() + op.binding().parameters[0], 32, 1.5f);
    op.forward();
    op.backward();
    auto valid_output = op.output();
    for (const float y : valid_output) ASSERT_TRUE(std::isfinite(y));
    valid_output.resize(at(4 * shape.elements()));
    seen.push_back(valid_output);
    seen.push_back(op.gradients);
    seen.push_back(op.diff_input(0));
    seen.push_back(op.diff_input(1));
    for (std::int64_t e = 4 * shape.elements(); e < 6 * shape.elements(); ++e) {
      ASSERT_EQ(op.diff_input(0)[at(e)], 0);
      ASSERT_EQ(op.diff_input(1)[at(e)], 0);
    }
  }
  for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(same_bits(seen[i], seen[i + 4]));
}

TEST(CpuBatchNorm, InferenceTakesTheRunningStatistics) {
  for (const std::int64_t block : {1, 8, 16, 0}) {
    const Shape shape{32, 3, 5};
    CpuOp op(cpu::make_batch_norm, {BatchNormAttrs{}, {shape, shape}, block, 3, 1, false, true, true});
    const auto x = random_floats(op.input_elements(0), 1, 2, 3);
    const auto residual = random_floats(op.input_elements(1), 2);
    op.set_input(0, x);
    op.set_input(1, residual);
    const auto weight = random_floats(32, 3);
    const auto bias = random_floats(32, 4);
    const auto mean = random_floats(32, 5, 2);
    auto variance = random_floats(32, 6, 9, 2);
    for (float& v : variance) v = std::abs(v);
    std::copy(weight.begin(), weight.end(), op.parameters.begin() + op.binding().parameters[0]);
    std::copy(bias.begin(), bias.end(), op.parameters.begin() + op.binding().parameters[1]);
    std::copy(mean.begin(), mean.end(), op.parameters.begin() + op.binding().statistics[0]);
    std::copy(variance.begin(), variance.end(), op.parameters.begin() + op.binding().statistics[1]);
    const auto untouched = op.gradients;
    op.forward();
    EXPECT_EQ(op.gradients, untouched) << "inference writes no gradients";
    EXPECT_TRUE(op.kernel().backward_phases().empty());
    EXPECT_EQ(op.kernel().needs().saved, 0u);

    const Tensor64 x64 = widen(x);
    const Tensor64 weight64 = widen(weight);
    const Tensor64 bias64 = widen(bias);
    const Tensor64 mean64 = widen(mean);
    const Tensor64 variance64 = widen(variance);
    Tensor64 expected;
    std::vector<Tensor64> none;
    op_entry(BatchNormAttrs{})
        .forward(op.node(), op.graph(), op.reference_context(), {&x64}, {&weight64, &bias64},
                 {&mean64, &variance64}, expected, none);
    Tensor64 bound(expected.size());
    for (std::size_t e = 0; e < expected.size(); ++e) {
      // x - mean, the scale (2), their product; the additions of bias and residual.
      bound[e] = unit * (5 * std::abs(expected[e] - bias64[e / 15 % 32]) + 2 * std::abs(expected[e]));
      expected[e] += static_cast<double>(residual[e]);
      bound[e] += unit * std::abs(expected[e]);
      expected[e] = std::max(expected[e], 0.0);
    }
    expect_within(
        op.output(), expected, [&](std::size_t e) { return bound[e]; }, "output");
  }
}

TEST(CpuBatchNorm, NanStaysInItsChannel) {
  for (const std::int64_t block : {1, 8, 16, 0}) {
    for (const float bad : {nan, std::numeric_limits<float>::infinity()}) {
      const Shape shape{32, 4, 5};
      CpuOp op(cpu::make_batch_norm, {BatchNormAttrs{}, {shape}, block, 3, 3, true, true});
      auto x = random_floats(op.input_elements(0), 1);
      x[at(32 * 20 + 7 * 20 + 11)] = bad;  // channel 7 of row 1
      op.set_input(0, x);
      op.set_diff_output(random_floats(op.output_elements(), 2));
      std::fill_n(op.parameters.begin() + op.binding().parameters[0], 32, 1.0f);
      op.forward();
      op.backward();
      const auto y = op.output();
      for (std::size_t e = 0; e < y.size(); ++e) ASSERT_EQ(std::isnan(y[e]), e / 20 % 32 == 7) << e;
      for (std::int64_t c = 0; c < 32; ++c) {
        ASSERT_EQ(std::isfinite(op.gradients[at(op.binding().statistics[0] + c)]), c != 7);
        ASSERT_EQ(std::isfinite(op.gradients[at(op.binding().parameters[0] + c)]), c != 7);
      }
    }
  }
}

TEST(CpuBatchNorm, TheOutputIsKeptOnlyWhereTheMaskNeedsIt) {
  const Shape shape{16, 4, 4};
  const auto needs = [&](bool relu, bool residual) {
    OpSetup s{BatchNormAttrs{}, {shape}, 16, 2, 2, true, relu, residual};
    if (residual) s.inputs.push_back(shape);
    return CpuOp(cpu::make_batch_norm, s).kernel().needs();
  };
  EXPECT_FALSE(needs(false, false).needs_output_in_backward);
  EXPECT_FALSE(needs(true, false).needs_output_in_backward);
  EXPECT_FALSE(needs(false, true).needs_output_in_backward);
  EXPECT_TRUE(needs(true, true).needs_output_in_backward);
  EXPECT_TRUE(needs(true, false).needs_input_in_backward);
}

}  // namespace
}  // namespace lockstep::op_test
