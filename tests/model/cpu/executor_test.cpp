#include <cstring>
#include <gtest/gtest.h>
#include <vector>

#include "device/lane_pool.h"
#include "model/cpu/plan.h"
#include "model/executor_check.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/zoo/zoo.h"

namespace lockstep {
namespace {

using test::Data;
using test::initial_flat;
using test::Trained;
using test::zoo_of_ops;

Trained train_once(const Graph& graph, const Data& data, std::int64_t slices, Node mine, int lanes,
                   int repeats = 1) {
  LanePool pool(lanes);
  return test::train_once(
      [&](const Graph& g, const ExecutorOptions& options) { return compile_cpu(g, options, pool); }, graph,
      data, slices, mine, repeats);
}

void expect_matches_reference(const Graph& graph, std::int64_t rows, const std::vector<std::int64_t>& valid,
                              double tolerance) {
  LanePool pool(2);
  test::expect_matches_reference(
      [&](const Graph& g, const ExecutorOptions& options) { return compile_cpu(g, options, pool); }, graph,
      rows, valid, tolerance);
}

// float32 rounds by 6e-8; sums of up to a few thousand terms through about ten layers of which each can
// double the relative error of its input: 6e-8 * sqrt(4e3) * 2^5 = 1.2e-4.
constexpr double chain_tolerance = 1.5e-4;

TEST(CpuExecutor, GradientsOfEveryOpMatchTheReference) {
  expect_matches_reference(zoo_of_ops(), 6, {6, 4}, chain_tolerance);
}

TEST(CpuExecutor, MeanSquaredErrorMatchesTheReference) {
  expect_matches_reference(zoo_of_ops(MeanSquaredErrorAttrs{}), 5, {5}, chain_tolerance);
}

TEST(CpuExecutor, ResidualNetMatchesTheReference) {
  const Graph graph = build_model("resnet18", {{"width", "16"}}, {3, 16, 16}, 5, CrossEntropyAttrs{});
  expect_matches_reference(graph, 4, {4}, 10 * chain_tolerance);  // 20 layers with batch norm over 4 rows
}

// 53 convolutions, each followed by a batch norm over at least 16 values. The plain block adds its branch to
// a shortcut that carries the error on unchanged, so errors grow along 16 blocks, not along 53 layers: the
// chain of ten layers above, with 16 blocks of three in its place, 16 * 3 / 10 times its bound, twice
// (forward and backward), and twice again for norms that divide by the deviation of few values.
TEST(CpuExecutor, Resnet50MatchesTheReference) {
  for (const char* zero_gamma : {"true", "false"}) {
    const Graph graph = build_model("resnet50", {{"width", "8"}, {"zero_gamma", zero_gamma}}, {3, 64, 64}, 5,
                                    CrossEntropyAttrs{});
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
  const Graph graph = build_model("resnet18", {{"width", "16"}}, {3, 16, 16}, 5, CrossEntropyAttrs{});
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
