// One set of tests for the executors of all devices and precisions, against the float64 reference.

#include <gtest/gtest.h>

#include "core/numerics/precision.h"
#include "model/device_under_test.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/zoo/graph_builder.h"
#include "model/zoo/layers_line.h"
#include "model/zoo/zoo.h"
#include "support/process.h"

namespace lockstep::test {
namespace {

class DeviceExecutor : public testing::TestWithParam<DeviceUnderTest> {
 protected:
  void SetUp() override {
    if (!GetParam().missing.empty()) LOCKSTEP_SKIP_WITHOUT(GetParam().means, GetParam().missing);
  }
  const Compile& compile() const { return GetParam().compile; }
  /// float32 rounds by u = 2^-24; sums of up to a few thousand terms, through about ten layers of which each
  /// can double the relative error of its input: u sqrt(4e3) 2^5 = 1.2e-4. Where factors are rounded to fewer
  /// bits, sums are still in float32: the error of a layer is a few u, and 32 u through the same layers.
  /// Besides, the rounding turns one in about 1 / (8 u) decisions of ReLU and of the maximum the other way,
  /// each worth as much as a term: in the Euclidean norm sqrt(8 u).
  static double rounded(double u) { return 32 * u + std::sqrt(8 * u); }
  double bound() const {
    switch (GetParam().precision) {
      case cuda::Precision::fp32:
        return 1.5e-4;
      case cuda::Precision::tf32:
        return rounded(unit_roundoff_tf32);
      case cuda::Precision::bf16:
        return rounded(unit_roundoff_bf16);
      case cuda::Precision::fp16:
        return rounded(unit_roundoff_fp16);
    }
    return 0;
  }
  float loss_scale() const { return GetParam().precision == cuda::Precision::fp16 ? 256.0f : 1.0f; }
  void expect_reference(const Graph& graph, std::int64_t rows, const std::vector<std::int64_t>& valid,
                        double factor = 1) {
    expect_matches_reference(compile(), graph, rows, valid, factor * bound(), loss_scale(),
                             GetParam().precision == cuda::Precision::fp32 ? 1e-2 : 1e-1);
  }
  /// Tens of norms over few values: in fewer bits than float32's only the loss is held against the reference,
  /// within what rounding every layer once more would do, and gradients must be finite.
  void expect_deep(const Graph& graph, double factor) {
    if (GetParam().precision == cuda::Precision::fp32) {
      expect_reference(graph, 4, {4}, factor);
      return;
    }
    const Data data(graph, 1, 4, {4});
    const Trained got = train_once(compile(), graph, data, 1, {0, 1}, 3, loss_scale());
    const double want =
        ReferenceExecutor(graph).train(data.batches[0], initial_parameters(graph, 5), 9, 3).loss;
    EXPECT_NEAR(got.results[0].loss, want, bound() * (1 + want));
    for (const float g : got.roots[0]) ASSERT_TRUE(std::isfinite(g));
  }
};

TEST_P(DeviceExecutor, GradientsOfEveryOpMatchTheReference) {
  expect_reference(zoo_of_ops(), 6, {6, 4});
}

TEST_P(DeviceExecutor, MeanSquaredErrorMatchesTheReference) {
  expect_reference(zoo_of_ops(MeanSquaredErrorAttrs{}), 5, {5});
}

// Each op alone between a layer with weights and the loss, so that a failure names it.
TEST_P(DeviceExecutor, EachOpMatchesTheReference) {
  for (const char* layers :
       {"flatten dense:5", "conv:6x3 flatten dense:5", "conv:6x3,pad=1,stride=2 relu flatten dense:5",
        "conv:6x3,groups=3,bias=0 flatten dense:5", "conv:6x5,pad=2,stride=3 flatten dense:5",
        "conv:6x3 maxpool:2 flatten dense:5", "conv:6x3 maxpool:3,stride=2,pad=1 flatten dense:5",
        "conv:6x3 avgpool:2 flatten dense:5", "conv:6x3 avgpool:3,stride=1,pad=1 flatten dense:5",
        "conv:6x3 gap flatten dense:5", "conv:6x3 bn flatten dense:5", "conv:6x3 bn relu flatten dense:5",
        "conv:8x3,bias=0 bn relu conv:16x3,bias=0,stride=2 bn flatten dense:5",
        "flatten dense:9 bn relu dense:5", "flatten dense:9 relu dense:5", "flatten dense:9,bias=0 dense:5",
        "conv:6x3 dropout:0.4 flatten dense:5", "flatten dense:9 dropout:0.4 dense:5",
        "flatten dense:9 softmax dense:5", "conv:6x3 gelu flatten dense:5",
        // With rows of 8 elements GELU and its slope go with the dense layers around it, else they do not.
        "flatten dense:16 gelu dense:5", "flatten dense:24,bias=0 gelu dense:16,bias=0 gelu dense:5",
        "flatten dense:9 gelu dense:5", "flatten dense:16 gelu dropout:0.4 dense:5",
        "flatten dense:16 bn gelu dense:5", "flatten dense:8 gelu"}) {
    SCOPED_TRACE(layers);
    expect_reference(build_layers(layers, {3, 9, 10}, 0, CrossEntropyAttrs{}), 4, {4, 3});
  }
}

// Norms behind a convolution that passes its input on: statistics where squares of float32 would cancel, of a
// channel that is constant, and with empty rows. All values are exact in every format.
TEST_P(DeviceExecutor, StatisticsOfFarMeansMatchTheReference) {
  const std::vector<float> means = {0, 1, 2, 4, 16, 100, -100, 3};
  const std::int64_t channels = static_cast<std::int64_t>(means.size()), pixels = 36, rows = 16;
  GraphBuilder b("far");
  const ValueId x = b.input({channels, 6, 6});
  const ValueId c = b.conv2d(x, {.out_channels = channels, .kernel_h = 1, .kernel_w = 1, .bias = false});
  const Graph graph = b.finish(b.batch_norm(c), MeanSquaredErrorAttrs{});
  for (const std::int64_t valid : {rows, rows - 5}) {
    Data data(graph, 1, rows, {valid});
    std::mt19937 random(7);
    std::vector<double> sum(means.size()), squares(means.size());
    for (std::size_t i = 0; i < static_cast<std::size_t>(valid * channels * pixels); ++i) {
      const std::size_t channel = i / pixels % means.size();
      const float off = channel + 1 == means.size() ? 0.0f : static_cast<float>(random() % 5) * 0.5f - 1.0f;
      data.slices[0].as<float>(0)[i] = means[channel] + off;
      sum[channel] += static_cast<double>(off);
      squares[channel] += static_cast<double>(off) * static_cast<double>(off);
    }
    ExecutorOptions options;
    options.slice_rows = rows;
    const auto executor = compile()(graph, options);
    std::vector<float> flat = initial_flat(graph, *executor), root(flat.size());
    const auto part = [](auto& whole, const FlatSegment& segment) {
      return std::span(whole).subspan(static_cast<std::size_t>(segment.storage.begin),
                                      static_cast<std::size_t>(segment.storage.size()));
    };
    for (const FlatSegment& segment : executor->layout().segments)
      if (segment.shape.rank() == 4) {
        std::vector<float> identity(static_cast<std::size_t>(channels * channels), 0.0f);
        for (std::size_t i = 0; i < means.size(); ++i) identity[i * means.size() + i] = 1.0f;
        executor->import_plain(segment, identity, part(flat, segment));
      }
    const std::span<float> view(root);
    SliceResult result;
    StepInputs inputs;
    inputs.parameters = flat;
    inputs.slices = data.batches;
    inputs.roots = {&view, 1};
    inputs.results = {&result, 1};
    inputs.loss_scale = loss_scale();
    for (int repeat = 0; repeat < 3; ++repeat) executor->train(inputs);
    const double n = static_cast<double>(valid * pixels), weight = static_cast<double>(valid);
    int seen = 0;
    for (const FlatSegment& segment : executor->layout().segments) {
      if (segment.kind != FlatSegment::Kind::statistic) continue;
      const bool mean = segment.name.find("mean") != std::string::npos;
      std::vector<float> got(means.size());
      executor->export_plain(segment, part(std::as_const(root), segment), got);
      for (std::size_t i = 0; i < means.size(); ++i, ++seen) {
        const double off = sum[i] / n;
        const double want =
            mean ? static_cast<double>(means[i]) + off : (squares[i] - n * off * off) / (n - 1);
        EXPECT_NEAR(static_cast<double>(got[i]) / weight, want, 1e-4 * (0.01 + std::abs(want)))
            << segment.name << " " << i;
      }
    }
    EXPECT_EQ(seen, 2 * static_cast<int>(channels));
    for (const float g : root) ASSERT_TRUE(std::isfinite(g));
  }
}

// A softmax over the width of an image, a relu that is fused into nothing, and an output that is an image.
TEST_P(DeviceExecutor, OddGraphsMatchTheReference) {
  GraphBuilder b("odd");
  const ValueId x = b.input({3, 6, 5});
  ValueId y = b.conv2d(x, {.out_channels = 4, .kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1});
  y = b.softmax(y);
  y = b.conv2d(y, {.out_channels = 4, .kernel_h = 1, .kernel_w = 1, .bias = false});
  const ValueId z = b.relu(b.max_pool(y, {2, 2, 1, 1, 0, 0}));
  expect_reference(b.finish(b.add(z, z), MeanSquaredErrorAttrs{}), 3, {3, 2});
}

TEST_P(DeviceExecutor, ResidualNetMatchesTheReference) {
  const Graph graph = build_model("resnet18", {{"width", "8"}}, {3, 16, 16}, 5, CrossEntropyAttrs{});
  expect_deep(graph, 10);  // 20 layers with batch norm over 4 rows
}

TEST_P(DeviceExecutor, Resnet50MatchesTheReference) {
  const Graph graph =
      build_model("resnet50", {{"width", "4"}, {"zero_gamma", "false"}}, {3, 64, 64}, 5, CrossEntropyAttrs{});
  expect_deep(graph, 20);
}

// The same bits however slices are dealt out, and in a second run.
TEST_P(DeviceExecutor, SlotsAreAddedAlongTheCanonicalTree) {
  const Graph graph = zoo_of_ops();
  const std::int64_t slices = 5;
  const Data data(graph, slices, 6, {6, 6, 3, 6, 0});
  const auto train = [&](Node mine, int repeats) {
    return train_once(compile(), graph, data, slices, mine, repeats, loss_scale());
  };
  const Trained whole = train({0, slices}, 1), again = train({0, slices}, 3);
  ASSERT_EQ(0,
            std::memcmp(whole.roots[0].data(), again.roots[0].data(), whole.roots[0].size() * sizeof(float)));
  // Two ranks: [0,2) and [2,5); the canonical tree over 5 is ((0+1)+(2+3))+4.
  const Trained a = train({0, 2}, 1), b = train({2, 5}, 1);
  ASSERT_EQ(b.roots.size(), 2u);
  for (std::size_t i = 0; i < whole.roots[0].size(); ++i)
    ASSERT_EQ(whole.roots[0][i], (a.roots[0][i] + b.roots[0][i]) + b.roots[1][i]) << i;
  for (std::size_t s = 0; s < 2; ++s) EXPECT_EQ(whole.results[s].loss, a.results[s].loss);
  EXPECT_EQ(whole.results[4].weight, 0.0);
}

TEST_P(DeviceExecutor, ASliceWithNothingInItContributesZeros) {
  const Graph graph = zoo_of_ops();
  const Data data(graph, 2, 4, {4, 0});
  const Trained got = train_once(compile(), graph, data, 2, {1, 2}, 2, loss_scale());
  for (const float g : got.roots[0]) ASSERT_EQ(g, 0.0f);
  EXPECT_EQ(got.results[0].weight, 0.0);
}

TEST_P(DeviceExecutor, InferenceMatchesTheReference) {
  const Graph graph = zoo_of_ops();
  const Data data(graph, 2, 5, {5, 2});
  ExecutorOptions options;
  options.slice_rows = 5;
  options.training = false;
  options.slices = 2;
  options.mine = {0, 2};
  const auto executor = compile()(graph, options);
  const std::vector<float> flat = initial_flat(graph, *executor);
  std::vector<std::vector<float>> out(2, std::vector<float>(5 * 7));
  std::vector<std::span<float>> views(out.begin(), out.end());
  std::vector<SliceResult> results(2);
  StepInputs inputs;
  inputs.parameters = flat;
  inputs.slices = data.batches;
  inputs.results = results;
  const ReferenceExecutor reference(graph);
  for (int repeat = 0; repeat < 3; ++repeat) {
    executor->infer(inputs, views);
    inputs.parameters_changed = false;
    for (std::size_t s = 0; s < 2; ++s) {
      const auto want =
          reference.infer(data.batches[s], initial_parameters(graph, 5), initial_statistics(graph));
      EXPECT_NEAR(results[s].loss, want.loss, bound() * (1 + want.loss));
      for (std::int64_t i = 0; i < data.batches[s].valid * 7; ++i) {
        const float got = out[s][static_cast<std::size_t>(i)];
        ASSERT_TRUE(std::isfinite(got));
        EXPECT_NEAR(got, want.output[static_cast<std::size_t>(i)], bound() * 10);
      }
    }
  }
}

// Norms that join their convolutions some ops later: behind the shortcut whose result they add.
TEST_P(DeviceExecutor, InferenceOfAResidualNetMatchesTheReference) {
  const Graph graph = build_model("resnet18", {{"width", "4"}}, {3, 16, 16}, 5, CrossEntropyAttrs{});
  const Data data(graph, 1, 4, {3});
  ExecutorOptions options;
  options.slice_rows = 4;
  options.training = false;
  const auto executor = compile()(graph, options);
  std::vector<float> flat = initial_flat(graph, *executor), out(4 * 5);
  // Statistics that are not 0 and 1, so that they count.
  NamedTensors statistics = initial_statistics(graph);
  std::mt19937 random(5);
  for (const FlatSegment& segment : executor->layout().segments) {
    if (segment.kind != FlatSegment::Kind::statistic) continue;
    const bool mean = segment.name.find("mean") != std::string::npos;
    std::vector<float> plain(static_cast<std::size_t>(segment.shape.elements()));
    for (std::size_t i = 0; i < plain.size(); ++i) {
      const auto drawn = static_cast<float>(random() % 100) * 0.01f;
      plain[i] = mean ? drawn - 0.5f : 0.5f + 2 * drawn;
      statistics.at(segment.name)[i] = static_cast<double>(plain[i]);
    }
    executor->import_plain(segment, plain,
                           std::span(flat).subspan(static_cast<std::size_t>(segment.storage.begin),
                                                   static_cast<std::size_t>(segment.storage.size())));
  }
  const std::span<float> view(out);
  SliceResult result;
  StepInputs inputs;
  inputs.parameters = flat;
  inputs.slices = data.batches;
  inputs.results = {&result, 1};
  executor->infer(inputs, {&view, 1});
  const auto want = ReferenceExecutor(graph).infer(data.batches[0], initial_parameters(graph, 5), statistics);
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < 3 * 5; ++i) {
    ASSERT_TRUE(std::isfinite(out[i]));
    error += std::pow(static_cast<double>(out[i]) - want.output[i], 2);
    norm += std::pow(want.output[i], 2);
  }
  EXPECT_LE(std::sqrt(error), 10 * bound() * std::sqrt(norm));
}

TEST_P(DeviceExecutor, TrainingAndInferenceShareOneLayout) {
  const Graph graph = zoo_of_ops();
  ExecutorOptions options;
  options.slice_rows = 8;
  const auto train = compile()(graph, options);
  options.training = false;
  options.slice_rows = 3;
  const auto infer = compile()(graph, options);
  ASSERT_EQ(train->layout().elements, infer->layout().elements);
  ASSERT_EQ(train->layout().segments.size(), infer->layout().segments.size());
  for (std::size_t i = 0; i < train->layout().segments.size(); ++i)
    EXPECT_EQ(train->layout().segments[i].storage, infer->layout().segments[i].storage);
}

TEST_P(DeviceExecutor, PlainTensorsSurviveTheStoredForm) {
  const Graph graph = zoo_of_ops();
  ExecutorOptions options;
  options.slice_rows = 2;
  const auto executor = compile()(graph, options);
  for (const FlatSegment& segment : executor->layout().segments) {
    std::vector<float> plain(static_cast<std::size_t>(segment.shape.elements())), back(plain.size());
    for (std::size_t i = 0; i < plain.size(); ++i) plain[i] = static_cast<float>(i);
    std::vector<float> stored(static_cast<std::size_t>(segment.storage.size()));
    executor->import_plain(segment, plain, stored);
    executor->export_plain(segment, stored, back);
    EXPECT_EQ(plain, back) << segment.name;
  }
}

// The CPU's executor is the oracle: every output, loss and gradient of a model, by normalised error.
TEST_P(DeviceExecutor, AgreesWithTheCpu) {
  LanePool lanes(2);
  const Compile cpu = [&](const Graph& graph, const ExecutorOptions& options) {
    return compile_cpu(graph, options, lanes);
  };
  for (const Graph& graph : {zoo_of_ops(), build_model("lenet", {}, {1, 28, 28}, 10, CrossEntropyAttrs{}),
                             build_model("mlp", {{"hidden", "40,30"}}, {1, 8, 8}, 10, CrossEntropyAttrs{})}) {
    const Data data(graph, 2, 6, {6, 5});
    const Trained want = train_once(cpu, graph, data, 2, {0, 2});
    const Trained got = train_once(compile(), graph, data, 2, {0, 2}, 3, loss_scale());
    ExecutorOptions options;
    options.slice_rows = 6;
    options.slices = 2;
    options.mine = {0, 2};
    const auto plain = [&](const Compile& compile_with, const Trained& trained, const FlatSegment& segment) {
      std::vector<float> out(static_cast<std::size_t>(segment.shape.elements()));
      compile_with(graph, options)
          ->export_plain(segment,
                         std::span<const float>(trained.roots[0])
                             .subspan(static_cast<std::size_t>(segment.storage.begin),
                                      static_cast<std::size_t>(segment.storage.size())),
                         out);
      return out;
    };
    for (std::size_t s = 0; s < 2; ++s) {
      ASSERT_TRUE(std::isfinite(got.results[s].loss));
      EXPECT_NEAR(got.results[s].loss, want.results[s].loss, bound() * (1 + want.results[s].loss));
    }
    ASSERT_EQ(got.layout.segments.size(), want.layout.segments.size());
    for (std::size_t i = 0; i < got.layout.segments.size(); ++i) {
      ASSERT_EQ(got.layout.segments[i].name, want.layout.segments[i].name);
      const std::vector<float> a = plain(compile(), got, got.layout.segments[i]);
      const std::vector<float> b = plain(cpu, want, want.layout.segments[i]);
      double error = 0, norm = 0;
      for (std::size_t e = 0; e < a.size(); ++e) {
        ASSERT_TRUE(std::isfinite(a[e])) << got.layout.segments[i].name;
        error += std::pow(static_cast<double>(a[e]) - b[e], 2);
        norm += std::pow(static_cast<double>(b[e]), 2);
      }
      const double floor = GetParam().precision == cuda::Precision::fp32 ? 1e-2 : 1e-1;
      EXPECT_LE(std::sqrt(error), 2 * bound() * (std::sqrt(norm) + floor)) << got.layout.segments[i].name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceExecutor, testing::ValuesIn(devices_under_test()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace lockstep::test
