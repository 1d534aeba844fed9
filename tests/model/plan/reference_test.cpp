#include "model/plan/reference.h"

#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/numerics/philox.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/zoo/graph_builder.h"
#include "model/zoo/layers_line.h"
#include "model/zoo/zoo.h"
#include "support/make_batch.h"

namespace lockstep {
namespace {

using ::testing::DoubleNear;
using ::testing::Pointwise;

/// A batch and the memory that it points into.
struct Data {
  std::vector<std::int64_t> samples;
  std::vector<float> input, targets;
  std::vector<std::int32_t> labels;
  Batch batch;

  Data(const Graph& graph, std::int64_t rows, std::int64_t valid, std::int64_t first_sample = 0) {
    const auto elements = static_cast<std::size_t>(graph.shape_of(graph.inputs.at(0)).elements());
    const auto outputs = static_cast<std::size_t>(graph.shape_of(graph.output).elements());
    for (std::int64_t n = 0; n < rows; ++n) {
      const std::int64_t sample = first_sample + n;
      const PhiloxKey key = random_key(3, Purpose::synthetic, 0, 0);
      const bool live = n < valid;
      samples.push_back(live ? sample : -1);
      const auto draw = [&](std::size_t e) {
        return live ? 2 * uniform01(random_block(key, static_cast<std::uint64_t>(sample), e).v[0]) - 1 : 0.0f;
      };
      for (std::size_t e = 0; e < elements; ++e) input.push_back(draw(e));
      for (std::size_t e = 0; e < outputs; ++e) targets.push_back(draw(elements + e));
      labels.push_back(static_cast<std::int32_t>(static_cast<std::size_t>(sample) % outputs));
    }
    batch = has_labels(graph) ? test::make_batch(0, rows, valid, samples, input, labels)
                              : test::make_batch(0, rows, valid, samples, input, targets);
  }
  Data(const Data&) = delete;
};

/// Central differences of the loss in every element (at most `most` of each parameter), step and tolerance as
/// in ops/reference_test.cpp. `factor` covers third derivatives and the rounding of the sums of a whole
/// model.
void expect_finite_differences(const Graph& graph, const Data& data, double factor, std::size_t most = 1000) {
  const ReferenceExecutor reference(graph);
  NamedTensors parameters = initial_parameters(graph, 5);
  const auto result = reference.train(data.batch, parameters, 9, 4);
  const double h = std::cbrt(std::numeric_limits<double>::epsilon());
  const double tolerance = factor * h * h * (1 + std::abs(result.loss));
  double largest = 0;
  for (auto& [name, values] : parameters) {
    const std::size_t stride = 1 + values.size() / most;
    for (std::size_t e = 0; e < values.size(); e += stride) {
      const double x = values[e];
      values[e] = x + h;
      const double above = reference.train(data.batch, parameters, 9, 4).loss;
      values[e] = x - h;
      const double below = reference.train(data.batch, parameters, 9, 4).loss;
      values[e] = x;
      ASSERT_NEAR(result.gradients.at(name)[e], (above - below) / (2 * h), tolerance) << name << " " << e;
      largest = std::max(largest, std::abs(result.gradients.at(name)[e]));
    }
  }
  EXPECT_GT(largest, 1e4 * tolerance);  // the check can fail
}

TEST(Reference, GradientsOfACnnWithEverythingEqualFiniteDifferences) {
  const Graph g = build_layers(
      "conv:4x3,pad=1,bias=0 bn relu maxpool:2 conv:4x3,groups=2 relu avgpool:2,stride=1 dropout:0.3 flatten "
      "dense:5",
      {2, 8, 8}, 5, CrossEntropyAttrs{});
  expect_finite_differences(g, Data(g, 5, 4), 100);
}

TEST(Reference, GradientsOfARegressionEqualFiniteDifferences) {
  const Graph g = build_layers("dense:10 relu dense:2", {10}, 2, MeanSquaredErrorAttrs{});
  expect_finite_differences(g, Data(g, 4, 3), 20);
}

// A value that two ops read gets the sum of their gradients.
TEST(Reference, GradientsOfAResidualNetEqualFiniteDifferences) {
  const Graph g = build_model("resnet18", {{"width", "2"}}, {3, 8, 8}, 4, CrossEntropyAttrs{});
  expect_finite_differences(g, Data(g, 4, 4), 3e3, 3);
}

TEST(Reference, AValueUsedTwiceGetsTheSumOfItsGradients) {
  GraphBuilder b;
  const ValueId h = b.dense(b.input({1}), {1, false}, "d");
  const ValueId out = b.add(b.add(h, b.relu(h)), h);  // 3 h for h > 0
  const Graph g = b.finish(out, MeanSquaredErrorAttrs{});
  const std::vector<float> input = {2}, target = {1};
  const std::vector<std::int64_t> samples = {0};
  const Batch batch = test::make_batch(0, 1, 1, samples, input, target);
  const auto r = ReferenceExecutor(g).train(batch, {{"d.weight", {0.5}}}, 0, 0);
  EXPECT_DOUBLE_EQ(r.loss, 4);  // (3 * 0.5 * 2 - 1)^2
  EXPECT_DOUBLE_EQ(r.gradients.at("d.weight")[0], 2 * 2 * 3 * 2.0);
}

TEST(Reference, CrossEntropyByHand) {
  GraphBuilder b;
  const Graph g = b.finish(b.dense(b.input({1}), {2, true}, "d"), CrossEntropyAttrs{});
  const std::vector<float> input = {1, 1, 5};
  const std::vector<std::int32_t> labels = {0, 1, 1};
  const std::vector<std::int64_t> samples = {0, 1, -1};
  const Batch batch = test::make_batch(0, 3, 2, samples, input, labels);
  const auto r =
      ReferenceExecutor(g).train(batch, {{"d.weight", {std::log(3.0), 0}}, {"d.bias", {0, 0}}}, 0, 0);
  // softmax = (3/4, 1/4) for both valid rows; the third row is empty.
  EXPECT_NEAR(r.loss, -std::log(0.75) - std::log(0.25), 1e-15);
  EXPECT_EQ(r.correct, 1);
  EXPECT_THAT(r.gradients.at("d.bias"), Pointwise(DoubleNear(1e-15), {0.75 - 1 + 0.75, 0.25 + 0.25 - 1}));
}

TEST(Reference, EqualOutputsCountForTheFirstClass) {
  GraphBuilder b;
  const Graph g = b.finish(b.dense(b.input({1}), {2, true}, "d"), CrossEntropyAttrs{});
  const std::vector<float> input = {1, 1};
  const std::vector<std::int32_t> labels = {0, 1};
  const std::vector<std::int64_t> samples = {0, 1};
  const auto r = ReferenceExecutor(g).train(test::make_batch(0, 2, 2, samples, input, labels),
                                            {{"d.weight", {0, 0}}, {"d.bias", {0, 0}}}, 0, 0);
  EXPECT_EQ(r.correct, 1);
  EXPECT_NEAR(r.loss, 2 * std::log(2.0), 1e-15);
}

// Without batch norm a batch is the sum of its slices, however it is cut: dropout follows the sample.
TEST(Reference, SlicesAddUpToTheBatch) {
  const Graph g = build_layers("dense:8 relu dropout:0.5 dense:3", {6}, 3, CrossEntropyAttrs{});
  const ReferenceExecutor reference(g);
  const NamedTensors parameters = initial_parameters(g, 1);
  const Data whole(g, 8, 7), left(g, 4, 4, 0), right(g, 4, 3, 4);
  const auto all = reference.train(whole.batch, parameters, 2, 3);
  const auto a = reference.train(left.batch, parameters, 2, 3);
  const auto b = reference.train(right.batch, parameters, 2, 3);
  EXPECT_NEAR(all.loss, a.loss + b.loss, 1e-13);
  EXPECT_EQ(all.correct, a.correct + b.correct);
  for (const auto& [name, gradient] : all.gradients) {
    for (std::size_t e = 0; e < gradient.size(); ++e) {
      EXPECT_NEAR(gradient[e], a.gradients.at(name)[e] + b.gradients.at(name)[e], 1e-13) << name;
    }
  }
}

// Rows that carry no sample enter no loss, gradient or statistic, whatever they hold.
TEST(Reference, EmptyRowsCountForNothing) {
  const Graph g = build_layers("conv:3x3 bn relu flatten dense:4", {1, 5, 5}, 4, CrossEntropyAttrs{});
  const ReferenceExecutor reference(g);
  const NamedTensors parameters = initial_parameters(g, 1);
  const Data exact(g, 3, 3);
  Data padded(g, 5, 3);
  std::fill(padded.input.begin() + 3 * 25, padded.input.end(), 1e6f);
  padded.labels[4] = 3;
  const auto a = reference.train(exact.batch, parameters, 2, 3);
  const auto b = reference.train(padded.batch, parameters, 2, 3);
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.correct, b.correct);
  EXPECT_EQ(a.statistics, b.statistics);
  for (const auto& [name, gradient] : a.gradients) {
    EXPECT_THAT(b.gradients.at(name), Pointwise(DoubleNear(1e-12), gradient)) << name;
  }
  const Data none(g, 2, 0);
  const auto zero = reference.train(none.batch, parameters, 2, 3);
  EXPECT_EQ(zero.loss, 0);
  for (const auto& [name, gradient] : zero.gradients) {
    for (const double d : gradient) EXPECT_EQ(d, 0) << name;
  }
  EXPECT_EQ(zero.statistics.at("bn1.running_mean"), Tensor64(3, 0.0));
}

TEST(Reference, InferenceUsesRunningStatisticsAndNoDropout) {
  const Graph g = build_layers("bn dropout:0.5 dense:2", {3}, 2, CrossEntropyAttrs{});
  const ReferenceExecutor reference(g);
  const NamedTensors parameters = initial_parameters(g, 1);
  const Data data(g, 4, 4);
  NamedTensors statistics = initial_statistics(g);
  const auto r = reference.infer(data.batch, parameters, statistics);
  EXPECT_EQ(r.values.at(1), r.values.at(2));  // dropout passes on
  for (std::size_t e = 0; e < data.input.size(); ++e) {
    EXPECT_DOUBLE_EQ(r.values.at(1)[e], data.input[e] / std::sqrt(1 + 1e-5));
  }
  EXPECT_GT(r.loss, 0);
  EXPECT_TRUE(r.gradients.empty());
  Batch unlabelled = data.batch;
  unlabelled.fields = unlabelled.fields.first(1);
  const auto unscored = reference.infer(unlabelled, parameters, statistics);
  EXPECT_EQ(unscored.output, r.output);
  EXPECT_EQ(unscored.loss, 0);
}

// The example of the regression: a plain gradient descent in float64 must find the line that made the data.
TEST(Reference, GradientDescentFindsALine) {
  GraphBuilder b;
  const Graph g = b.finish(b.dense(b.input({2}), {1, true}, "d"), MeanSquaredErrorAttrs{});
  const ReferenceExecutor reference(g);
  Data data(g, 32, 32);
  for (std::size_t n = 0; n < 32; ++n)
    data.targets[n] = 3 * data.input[2 * n] - 2 * data.input[2 * n + 1] + 0.5f;
  NamedTensors parameters = initial_parameters(g, 1);
  for (int step = 0; step < 500; ++step) {
    const auto r = reference.train(data.batch, parameters, 0, static_cast<std::uint64_t>(step));
    for (auto& [name, values] : parameters) {
      for (std::size_t e = 0; e < values.size(); ++e) values[e] -= 0.3 * r.gradients.at(name)[e] / 32;
    }
  }
  EXPECT_NEAR(parameters.at("d.weight")[0], 3, 1e-6);
  EXPECT_NEAR(parameters.at("d.weight")[1], -2, 1e-6);
  EXPECT_NEAR(parameters.at("d.bias")[0], 0.5, 1e-6);
}

TEST(Reference, MissingOrWrongTensorsAreADefect) {
  const Graph g = build_layers("bn dense:2", {3}, 2, CrossEntropyAttrs{});
  const ReferenceExecutor reference(g);
  const Data data(g, 2, 2);
  NamedTensors parameters = initial_parameters(g, 1);
  EXPECT_THROW(reference.infer(data.batch, parameters, {}), InternalError);
  parameters.at("dense1.bias").push_back(0);
  EXPECT_THROW(reference.train(data.batch, parameters, 0, 0), InternalError);
  parameters.erase("dense1.bias");
  EXPECT_THROW(reference.train(data.batch, parameters, 0, 0), InternalError);
}

}  // namespace
}  // namespace lockstep
