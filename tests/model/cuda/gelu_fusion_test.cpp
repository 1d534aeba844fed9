// GELU and its slope computed together with dense layers, with the host in the part of the GPU.

#include "model/cuda/plan/gelu_fusion.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <random>

#include "core/error.h"
#include "model/cuda/host_engine.h"
#include "model/executor_check.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/zoo/graph_builder.h"
#include "model/zoo/layers_line.h"

namespace lockstep::cuda {
namespace {

using test::HostLibrary;
using test::HostMachine;
using test::nothing_fused;

constexpr Precision fusing[] = {Precision::tf32, Precision::bf16, Precision::fp16};

lockstep::Graph layers(const std::string& line) {
  return build_layers(line, {12}, 0, CrossEntropyAttrs{});
}
lockstep::Graph mlp() {
  return layers("dense:16 gelu dense:24,bias=0 gelu dense:5");
}
template <class T>
std::vector<T> commands(const std::vector<Command>& all) {
  std::vector<T> found;
  for (const Command& command : all)
    if (const auto* c = std::get_if<T>(&command)) found.push_back(*c);
  return found;
}
using Passes = std::vector<DensePass>;

// ---- What the plan holds ----

TEST(CudaGeluFusion, DenseLayersKnowTheGelusAroundThem) {
  for (const Precision precision : fusing) {
    const Plan plan = make_plan(mlp(), 4, true, precision, 1 << 20);
    const auto products = commands<DenseForward>(plan.forward);
    const auto gelus = commands<GeluForward>(plan.forward);
    ASSERT_EQ(products.size(), 3u);
    ASSERT_EQ(gelus.size(), 2u);
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(products[i].gelu, gelus[i].y);
      EXPECT_EQ(products[i].y, gelus[i].x);
      EXPECT_NE(products[i].y, products[i].gelu);
      EXPECT_EQ(std::get<DenseForward>(plan.forward.at(static_cast<std::size_t>(gelus[i].given_by))).y,
                products[i].y);
    }
    EXPECT_EQ(passes_of(products[0]),
              (Passes{DensePass::forward_bias_gelu_aux, DensePass::forward_bias, DensePass::forward}));
    EXPECT_EQ(passes_of(products[1]), (Passes{DensePass::forward_gelu_aux, DensePass::forward}));
    EXPECT_EQ(passes_of(products[2]), (Passes{DensePass::forward_bias, DensePass::forward}));
    // Last layer first. The slope is taken at what the product in front has given, and in place.
    const auto data = commands<DenseBackwardData>(plan.backward);
    const auto slopes = commands<GeluBackward>(plan.backward);
    ASSERT_EQ(data.size(), 2u);
    ASSERT_EQ(slopes.size(), 2u);
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(passes_of(data[i]), (Passes{DensePass::data_gelu, DensePass::data}));
      EXPECT_EQ(data[i].gelu, products[1 - i].y);
      EXPECT_EQ(slopes[i].x, products[1 - i].y);
      EXPECT_EQ(slopes[i].dy, data[i].dx);
      EXPECT_EQ(slopes[i].dx, data[i].dx);
      EXPECT_EQ(
          std::get<DenseBackwardData>(plan.backward.at(static_cast<std::size_t>(slopes[i].given_by))).dx,
          data[i].dx);
    }
  }
}

// Nobody needs GELU's input then: it has no memory of its own.
TEST(CudaGeluFusion, InferenceKeepsNoInputOfGelu) {
  for (const Precision precision : fusing) {
    const Plan plan = make_plan(mlp(), 4, false, precision, 1 << 20);
    const auto products = commands<DenseForward>(plan.forward);
    EXPECT_EQ(passes_of(products.at(0)),
              (Passes{DensePass::forward_bias_gelu, DensePass::forward_bias, DensePass::forward}));
    EXPECT_EQ(passes_of(products.at(1)), (Passes{DensePass::forward_gelu, DensePass::forward}));
    for (const GeluForward& gelu : commands<GeluForward>(plan.forward)) EXPECT_EQ(gelu.x, gelu.y);
    const Plan separate = make_plan(mlp(), 4, false, precision, 1 << 20, false);
    EXPECT_LT(plan.memory.size(), separate.memory.size());
  }
}

TEST(CudaGeluFusion, WhatDoesNotFitIsLeftToTheSeparateKernels) {
  const auto fused = [](const lockstep::Graph& graph, Precision precision, bool fuse = true) {
    const Plan plan = make_plan(graph, 4, true, precision, 1 << 20, fuse);
    const auto given = [](const auto& all) {
      return std::count_if(all.begin(), all.end(), [](const auto& c) { return c.given_by >= 0; });
    };
    return std::pair(given(commands<GeluForward>(plan.forward)),
                     given(commands<GeluBackward>(plan.backward)));
  };
  using Found = std::pair<std::ptrdiff_t, std::ptrdiff_t>;
  const auto sums = [](Precision precision, bool fuse) {
    int joint = 0;
    for (const auto& c :
         commands<DenseBackwardWeights>(make_plan(mlp(), 4, true, precision, 1 << 20, fuse).backward))
      joint += passes_of(c) == Passes{DensePass::weights_bias, DensePass::weights};
    return joint;
  };
  EXPECT_EQ(sums(Precision::fp32, true), 2) << "of three layers one has no bias";
  EXPECT_EQ(sums(Precision::bf16, true), 2);
  EXPECT_EQ(sums(Precision::bf16, false), 0);
  EXPECT_EQ(fused(mlp(), Precision::bf16), Found(2, 2));
  EXPECT_EQ(fused(mlp(), Precision::fp32), Found(0, 0)) << "strict float32";
  EXPECT_EQ(fused(mlp(), Precision::bf16, false), Found(0, 0)) << "device.fuse = false";
  EXPECT_EQ(fused(layers("dense:12 gelu dense:5"), Precision::bf16), Found(0, 0)) << "rows of 12";
  EXPECT_EQ(fused(layers("dense:16 gelu dropout:0.5 dense:5"), Precision::bf16), Found(1, 0));
  EXPECT_EQ(fused(layers("dense:16 bn gelu dense:5"), Precision::bf16), Found(0, 1));
  EXPECT_EQ(fused(layers("dense:16 relu gelu dense:5"), Precision::bf16), Found(0, 1));
  EXPECT_EQ(fused(layers("dense:16 gelu"), Precision::bf16), Found(1, 0)) << "the loss takes it";
  GraphBuilder b("shared");
  const ValueId x = b.input({8});
  const ValueId before = b.dense(x, {.out_features = 8}), after = b.gelu(before);
  // Somebody else reads both sides, before the dense layer does.
  const ValueId both = b.add(before, after);
  const ValueId sum = b.add(both, b.dense(after, {.out_features = 8}));
  EXPECT_EQ(fused(b.finish(sum, MeanSquaredErrorAttrs{}), Precision::bf16), Found(0, 0));
}

// ---- What is computed ----

struct Ran {
  std::vector<float> root;     ///< training
  std::vector<float> outputs;  ///< inference
  std::int64_t biases = 0, gelus = 0, slopes = 0, launches = 0;
  std::string choice;
};
Ran run(const lockstep::Graph& graph, const test::Data& data, bool training, Precision precision,
        const HostLibrary& library, bool fuse = true, const std::string& choice = {}) {
  ExecutorOptions options;
  options.slice_rows = data.rows;
  options.training = training;
  CudaOptions cuda;
  cuda.precision = precision;
  cuda.fuse = fuse;
  const test::HostEngine engine =
      make_host_engine(graph, options, cuda, std::make_unique<HostMachine>(library, choice), 500);
  const std::vector<float> flat = test::initial_flat(graph, *engine);
  Ran out;
  out.root.resize(flat.size());
  out.outputs.resize(static_cast<std::size_t>(data.rows * graph.shape_of(graph.output).elements()));
  const std::span<float> root(out.root), outputs(out.outputs);
  SliceResult result;
  StepInputs inputs;
  inputs.parameters = flat;
  inputs.slices = std::span(data.batches).first(1);
  inputs.results = {&result, 1};
  if (training) {
    inputs.roots = {&root, 1};
    engine->train(inputs);
  } else {
    engine->infer(inputs, {&outputs, 1});
  }
  out.biases = engine.machine.biases;
  out.gelus = engine.machine.gelus;
  out.slopes = engine.machine.slopes;
  out.launches = engine.machine.launches;
  out.choice = engine->plan_choice();
  return out;
}

TEST(CudaGeluFusion, ALibraryWithoutThePlansLeavesItToTheSeparateKernels) {
  const auto graph = mlp();
  const test::Data data(graph, 1, 5, {5});
  for (const Precision precision : fusing)
    for (const bool training : {true, false}) {
      HostLibrary no_gelus, no_slopes, no_biases;
      no_gelus.gelus = false;
      no_slopes.slopes = false;
      no_biases.biases = false;
      const Ran all = run(graph, data, training, precision, {});
      const Ran forward = run(graph, data, training, precision, no_slopes);
      const Ran backward = run(graph, data, training, precision, no_gelus);
      const Ran without_bias = run(graph, data, training, precision, no_biases);
      const Ran none = run(graph, data, training, precision, nothing_fused);
      const Ran off = run(graph, data, training, precision, {}, false);
      const std::int64_t slopes = training ? 2 : 0, biases = training ? 2 : 0;
      EXPECT_EQ(all.gelus, 2);
      EXPECT_EQ(all.slopes, slopes);
      EXPECT_EQ(all.biases, biases);
      EXPECT_EQ(without_bias.biases, 0);
      EXPECT_EQ(forward.gelus, 2);
      EXPECT_EQ(forward.slopes, 0);
      EXPECT_EQ(backward.gelus, 0);
      EXPECT_EQ(backward.slopes, slopes);
      EXPECT_EQ(none.gelus + none.slopes + none.biases + off.gelus + off.slopes + off.biases, 0);
      // A launch less for each GELU and slope, one for the first bias, and three for each sum.
      EXPECT_EQ(none.launches - all.launches, 2 + 1 + slopes + 3 * biases);
      EXPECT_EQ(without_bias.launches - all.launches, 3 * biases);
      // Bit for bit what is computed without any of it.
      EXPECT_EQ(none.root, off.root);
      EXPECT_EQ(none.outputs, off.outputs);
      EXPECT_EQ(none.choice, off.choice);
      EXPECT_NE(all.choice, none.choice);
    }
}

// Rank 0 picks and tells the others: what it has not, nobody takes; what it has, everybody takes or fails.
TEST(CudaGeluFusion, AllRanksTakeWhatRank0Took) {
  const auto graph = mlp();
  const test::Data data(graph, 1, 4, {4});
  for (const bool training : {true, false}) {
    const Ran with = run(graph, data, training, Precision::bf16, {});
    const Ran without = run(graph, data, training, Precision::bf16, nothing_fused);
    const Ran told_with = run(graph, data, training, Precision::bf16, {}, true, with.choice);
    const Ran told_without = run(graph, data, training, Precision::bf16, {}, true, without.choice);
    const std::string pass = training ? "forward_bias_gelu_aux" : "forward_bias_gelu";
    EXPECT_NE(with.choice.find("dense " + pass + " 4 rows 12 to 16 = "), std::string::npos) << with.choice;
    EXPECT_EQ(told_with.root, with.root);
    EXPECT_EQ(told_with.outputs, with.outputs);
    EXPECT_EQ(told_without.root, without.root);
    EXPECT_EQ(told_without.outputs, without.outputs);
    EXPECT_EQ(told_without.gelus + told_without.slopes + told_without.biases, 0);
    EXPECT_THROW(run(graph, data, training, Precision::bf16, nothing_fused, true, with.choice), DeviceError);
  }
}

// Behind a bias empty rows hold GELU(bias), and gradients of zero: a slice with some gives the bits of one
// without.
TEST(CudaGeluFusion, EmptyRowsCountForNothing) {
  const auto graph = mlp();
  const test::Data uneven(graph, 1, 7, {4}), even(graph, 1, 4, {4});
  for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16, Precision::fp16})
    for (const HostLibrary& library : {HostLibrary{}, nothing_fused}) {
      const Ran a = run(graph, uneven, true, precision, library);
      const Ran b = run(graph, even, true, precision, library);
      EXPECT_EQ(a.root, b.root);
      EXPECT_TRUE(std::any_of(a.root.begin(), a.root.end(), [](float g) { return g != 0; }));
    }
}

}  // namespace
}  // namespace lockstep::cuda
