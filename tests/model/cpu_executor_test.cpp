#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <random>
#include <vector>

#include "device/lane_pool.h"
#include "model/cpu/plan.h"
#include "model/executor.h"
#include "model/graph.h"
#include "model/init.h"
#include "model/reference.h"
#include "model/zoo.h"

namespace lockstep {
namespace {

/// Slices of random data for a graph.
struct Data {
  std::int64_t rows;
  std::vector<std::vector<float>> inputs, targets;
  std::vector<std::vector<std::int32_t>> labels;
  std::vector<std::vector<std::int64_t>> samples;
  std::vector<SliceBatch> batches;

  Data(const Graph& graph, std::int64_t slices, std::int64_t rows_, const std::vector<std::int64_t>& valid)
      : rows(rows_) {
    std::mt19937 random(11);
    std::normal_distribution<float> draw;
    const std::int64_t in = graph.shape_of(graph.inputs[0]).elements();
    const std::int64_t out = graph.shape_of(graph.output).elements();
    for (std::int64_t s = 0; s < slices; ++s) {
      const std::int64_t n = valid[static_cast<std::size_t>(s)];
      inputs.emplace_back(static_cast<std::size_t>(rows * in), 0.0f);
      targets.emplace_back(static_cast<std::size_t>(rows * out), 0.0f);
      labels.emplace_back(static_cast<std::size_t>(rows), 0);
      samples.emplace_back(static_cast<std::size_t>(rows), -1);
      for (std::int64_t r = 0; r < n; ++r) {
        for (std::int64_t i = 0; i < in; ++i)
          inputs.back()[static_cast<std::size_t>(r * in + i)] = draw(random);
        for (std::int64_t i = 0; i < out; ++i)
          targets.back()[static_cast<std::size_t>(r * out + i)] = draw(random);
        labels.back()[static_cast<std::size_t>(r)] =
            static_cast<std::int32_t>(random() % static_cast<unsigned>(out));
        samples.back()[static_cast<std::size_t>(r)] = s * rows + r;
      }
    }
    for (std::int64_t s = 0; s < slices; ++s) {
      const auto i = static_cast<std::size_t>(s);
      SliceBatch batch{s, rows, valid[i], samples[i], inputs[i], {}, {}};
      if (graph.loss == LossKind::cross_entropy)
        batch.labels = labels[i];
      else
        batch.targets = targets[i];
      batches.push_back(batch);
    }
  }
};

struct Trained {
  std::vector<std::vector<float>> roots;
  std::vector<SliceResult> results;
  FlatLayout layout;
};

std::vector<float> initial_flat(const Graph& graph, const Executor& executor) {
  std::vector<float> flat(static_cast<std::size_t>(executor.layout().elements));
  for (const FlatSegment& segment : executor.layout().segments) {
    std::vector<float> plain(static_cast<std::size_t>(segment.shape.elements()));
    if (segment.kind == FlatSegment::Kind::parameter)
      initialise_plain(graph, static_cast<std::size_t>(segment.index), 5, plain);
    else
      std::fill(plain.begin(), plain.end(),
                graph.statistics[static_cast<std::size_t>(segment.index)].initial);
    executor.import_plain(segment, plain,
                          std::span(flat).subspan(static_cast<std::size_t>(segment.storage.begin),
                                                  static_cast<std::size_t>(segment.storage.size())));
  }
  return flat;
}

/// Checks that ready() tiles the flat gradient exactly once.
class TilingListener final : public GradientListener {
 public:
  explicit TilingListener(std::int64_t elements) : hits_(static_cast<std::size_t>(elements)) {
    for (auto& h : hits_) h.store(0);
  }
  void ready(Range range) override {
    for (std::int64_t i = range.begin; i < range.end; ++i) hits_[static_cast<std::size_t>(i)].fetch_add(1);
  }
  void progress() override {}
  bool tiled() const {
    for (const auto& h : hits_)
      if (h.load() != 1) return false;
    return true;
  }

 private:
  std::vector<std::atomic<int>> hits_;
};

Trained train_once(const Graph& graph, const Data& data, std::int64_t slices, Node mine, int lanes,
                   int repeats = 1) {
  LanePool pool(lanes);
  ExecutorOptions options;
  options.slice_rows = data.rows;
  options.slices = slices;
  options.mine = mine;
  auto executor = compile_cpu(graph, options, pool);
  Trained out;
  out.layout = executor->layout();
  const std::vector<float> flat = initial_flat(graph, *executor);
  std::vector<std::span<float>> roots;
  for (std::size_t i = 0; i < executor->schedule().roots.size(); ++i)
    out.roots.emplace_back(static_cast<std::size_t>(out.layout.elements), 0.0f);
  for (auto& r : out.roots) roots.emplace_back(r);
  out.results.resize(static_cast<std::size_t>(mine.size()));
  for (int i = 0; i < repeats; ++i) {
    TilingListener listener(out.layout.elements);
    StepInputs inputs;
    inputs.seed = 9;
    inputs.step = 3;
    inputs.parameters = flat;
    inputs.slices = std::span(data.batches)
                        .subspan(static_cast<std::size_t>(mine.begin), static_cast<std::size_t>(mine.size()));
    inputs.roots = roots;
    inputs.results = out.results;
    inputs.listener = &listener;
    executor->train(inputs);
    EXPECT_TRUE(listener.tiled());
  }
  return out;
}

/// A DAG with every op: residuals, a value used twice, an unfused add, dropout, both pools.
Graph zoo_of_ops(LossKind loss = LossKind::cross_entropy) {
  GraphBuilder b("everything");
  ValueId x = b.input({3, 12, 12});
  ValueId c = b.conv2d(x, {.out_channels = 16, .kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1});
  c = b.relu(b.batch_norm(c));
  ValueId r =
      b.conv2d(c, {.out_channels = 16, .kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1, .bias = false});
  r = b.relu(b.add(b.batch_norm(r), c));
  ValueId d = b.conv2d(r, {.out_channels = 32, .kernel_h = 1, .kernel_w = 1, .stride_h = 2, .stride_w = 2});
  ValueId m =
      b.conv2d(b.max_pool(r, {3, 3, 2, 2, 1, 1}),
               {.out_channels = 32, .kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1, .groups = 2});
  ValueId s = b.add(d, m);
  s = b.avg_pool(s, {2, 2, 2, 2, 0, 0});
  ValueId f = b.flatten(s);
  ValueId h = b.relu(b.dense(f, {.out_features = 20}));
  h = b.dropout(h, {0.25});
  ValueId g = b.flatten(b.global_avg_pool(r));
  ValueId k = b.dense(g, {.out_features = 20, .bias = false});
  ValueId o = b.dense(b.add(h, k), {.out_features = 7});
  return b.finish(o, loss);
}

void expect_matches_reference(const Graph& graph, std::int64_t rows, const std::vector<std::int64_t>& valid,
                              double tolerance) {
  const auto slices = static_cast<std::int64_t>(valid.size());
  const Data data(graph, slices, rows, valid);
  const ReferenceExecutor reference(graph);
  LanePool pool(1);
  ExecutorOptions options;
  options.slice_rows = rows;
  options.slices = slices;
  for (std::int64_t s = 0; s < slices; ++s) {
    const Trained got = train_once(graph, data, slices, {s, s + 1}, 2);
    const auto want =
        reference.train(data.batches[static_cast<std::size_t>(s)], initial_parameters(graph, 5), 9, 3);
    ASSERT_TRUE(std::isfinite(got.results[0].loss));
    EXPECT_NEAR(got.results[0].loss, want.loss, tolerance * (1.0 + std::abs(want.loss)));
    EXPECT_EQ(got.results[0].weight, static_cast<double>(valid[static_cast<std::size_t>(s)]));
    ExecutorOptions one = options;
    one.mine = {s, s + 1};
    auto executor = compile_cpu(graph, one, pool);
    for (const FlatSegment& segment : got.layout.segments) {
      std::vector<float> plain(static_cast<std::size_t>(segment.shape.elements()));
      executor->export_plain(segment,
                             std::span<const float>(got.roots[0])
                                 .subspan(static_cast<std::size_t>(segment.storage.begin),
                                          static_cast<std::size_t>(segment.storage.size())),
                             plain);
      const bool statistic = segment.kind == FlatSegment::Kind::statistic;
      const Tensor64& expected =
          statistic ? want.statistics.at(segment.name) : want.gradients.at(segment.name);
      const double weight = statistic ? static_cast<double>(valid[static_cast<std::size_t>(s)]) : 1.0;
      double error = 0, norm = 0;
      for (std::size_t i = 0; i < plain.size(); ++i) {
        ASSERT_TRUE(std::isfinite(plain[i])) << segment.name;
        error += std::pow(plain[i] - weight * expected[i], 2);
        norm += std::pow(weight * expected[i], 2);
      }
      // The floor is for gradients that are 0 by cancellation (a bias in front of batch norm): what is left
      // of their terms, which are of order 1e-2 here, is rounding.
      EXPECT_LE(std::sqrt(error), tolerance * (std::sqrt(norm) + 1e-2)) << segment.name;
    }
  }
}

// float32 rounds by 6e-8; sums of up to a few thousand terms through about ten layers of which each can
// double the relative error of its input: 6e-8 * sqrt(4e3) * 2^5 = 1.2e-4.
constexpr double chain_tolerance = 1.5e-4;

TEST(CpuExecutor, GradientsOfEveryOpMatchTheReference) {
  expect_matches_reference(zoo_of_ops(), 6, {6, 4}, chain_tolerance);
}

TEST(CpuExecutor, MeanSquaredErrorMatchesTheReference) {
  expect_matches_reference(zoo_of_ops(LossKind::mean_squared_error), 5, {5}, chain_tolerance);
}

TEST(CpuExecutor, ResidualNetMatchesTheReference) {
  const Graph graph = build_model("resnet18", {{"width", "16"}}, {3, 16, 16}, 5, LossKind::cross_entropy);
  expect_matches_reference(graph, 4, {4}, 10 * chain_tolerance);  // 20 layers with batch norm over 4 rows
}

// 53 convolutions, each followed by a batch norm over at least 16 values. The plain block adds its branch to
// a shortcut that carries the error on unchanged, so errors grow along 16 blocks, not along 53 layers: the
// chain of ten layers above, with 16 blocks of three in its place, 16 * 3 / 10 times its bound, twice
// (forward and backward), and twice again for norms that divide by the deviation of few values.
TEST(CpuExecutor, Resnet50MatchesTheReference) {
  for (const char* zero_gamma : {"true", "false"}) {
    const Graph graph = build_model("resnet50", {{"width", "8"}, {"zero_gamma", zero_gamma}}, {3, 64, 64}, 5,
                                    LossKind::cross_entropy);
    expect_matches_reference(graph, 4, {4}, 16 * 3 / 10.0 * 2 * 2 * chain_tolerance);
  }
}

TEST(CpuExecutor, AnySplitOverLanesAndRanksGivesTheSameBits) {
  const Graph graph = zoo_of_ops();
  const std::int64_t slices = 5;
  const Data data(graph, slices, 6, {6, 6, 3, 6, 0});
  const Trained whole = train_once(graph, data, slices, {0, slices}, 1);
  for (int lanes = 1; lanes <= 4; ++lanes) {
    const Trained other = train_once(graph, data, slices, {0, slices}, lanes, 3);
    ASSERT_EQ(
        0, std::memcmp(whole.roots[0].data(), other.roots[0].data(), whole.roots[0].size() * sizeof(float)))
        << lanes;
    for (std::size_t i = 0; i < whole.results.size(); ++i)
      EXPECT_EQ(whole.results[i].loss, other.results[i].loss);
  }
  // Two ranks: [0,2) and [2,5); the canonical tree over 5 is ((0+1)+(2+3))+4.
  const Trained a = train_once(graph, data, slices, {0, 2}, 2);
  const Trained b = train_once(graph, data, slices, {2, 5}, 3);
  ASSERT_EQ(b.roots.size(), 2u);
  for (std::size_t i = 0; i < whole.roots[0].size(); ++i)
    ASSERT_EQ(whole.roots[0][i], (a.roots[0][i] + b.roots[0][i]) + b.roots[1][i]);
}

TEST(CpuExecutor, TrainingAndInferenceShareOneLayout) {
  const Graph graph = zoo_of_ops();
  LanePool pool(2);
  ExecutorOptions options;
  options.slice_rows = 8;
  auto train = compile_cpu(graph, options, pool);
  options.training = false;
  options.slice_rows = 3;
  auto infer = compile_cpu(graph, options, pool);
  ASSERT_EQ(train->layout().elements, infer->layout().elements);
  ASSERT_EQ(train->layout().segments.size(), infer->layout().segments.size());
  for (std::size_t i = 0; i < train->layout().segments.size(); ++i) {
    EXPECT_EQ(train->layout().segments[i].name, infer->layout().segments[i].name);
    EXPECT_EQ(train->layout().segments[i].storage, infer->layout().segments[i].storage);
  }
}

TEST(CpuExecutor, InferenceMatchesTheReference) {
  const Graph graph = zoo_of_ops();
  const Data data(graph, 2, 5, {5, 2});
  LanePool pool(2);
  ExecutorOptions options;
  options.slice_rows = 5;
  options.training = false;
  options.slices = 2;
  options.mine = {0, 2};
  auto executor = compile_cpu(graph, options, pool);
  const std::vector<float> flat = initial_flat(graph, *executor);
  std::vector<std::vector<float>> out(2, std::vector<float>(5 * 7));
  std::vector<std::span<float>> views(out.begin(), out.end());
  std::vector<SliceResult> results(2);
  StepInputs inputs;
  inputs.parameters = flat;
  inputs.slices = data.batches;
  inputs.results = results;
  executor->infer(inputs, views);
  const ReferenceExecutor reference(graph);
  for (std::size_t s = 0; s < 2; ++s) {
    const auto want =
        reference.infer(data.batches[s], initial_parameters(graph, 5), initial_statistics(graph));
    EXPECT_NEAR(results[s].loss, want.loss, chain_tolerance * (1 + want.loss));
    EXPECT_EQ(results[s].correct, want.correct);
    for (std::int64_t i = 0; i < data.batches[s].valid * 7; ++i)
      EXPECT_NEAR(out[s][static_cast<std::size_t>(i)], want.output[static_cast<std::size_t>(i)],
                  chain_tolerance * 10);
  }
}

TEST(CpuExecutor, ASliceWithNothingInItContributesZeros) {
  const Graph graph = zoo_of_ops();
  const Data data(graph, 1, 4, {0});
  const Trained got = train_once(graph, data, 1, {0, 1}, 3);
  for (const float g : got.roots[0]) ASSERT_EQ(g, 0.0f);
  EXPECT_EQ(got.results[0].weight, 0.0);
}

TEST(CpuPlan, FusesAndKeepsTheArenaSmallerThanTheSumOfItsBuffers) {
  const Graph graph = build_model("resnet18", {{"width", "16"}}, {3, 16, 16}, 5, LossKind::cross_entropy);
  const cpu::Plan plan = cpu::make_plan(graph, 4, true, 2);
  std::size_t sum = 0;
  for (const auto& request : plan.memory) sum += request.bytes;
  EXPECT_LT(plan.arena_bytes, sum);
  EXPECT_LT(plan.ops.size(), graph.nodes.size());
  // Gradients become ready in flat order: the ranges of the backward items follow one another.
  std::int64_t next = 0;
  for (const auto& item : plan.backward) {
    const Range range = plan.ops[static_cast<std::size_t>(item.op)].flat;
    if (range.size() == 0) continue;
    EXPECT_EQ(range.begin, next);
    next = range.end;
  }
  EXPECT_EQ(next, plan.layout.elements);
}

}  // namespace
}  // namespace lockstep
