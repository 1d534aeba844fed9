// Plans that are measured on the GPU, and remembered.

#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/numerics/precision.h"
#include "model/cuda/run/executor.h"
#include "model/cuda/tuning/plan_timing.h"
#include "model/executor_check.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/temp_dir.h"

#include "gpu/gpu_support.h"

namespace lockstep::cuda {
namespace {

using test::Data;
using test::TempDir;
using test::Trained;

lockstep::Graph small_graph() {
  return build_layers("conv:16x3,pad=1 relu conv:16x3,pad=1 relu flatten dense:24 gelu dense:5", {8, 12, 12},
                      5, CrossEntropyAttrs{});
}

/// The relative distance of two gradients in the Euclidean norm.
double distance(const Trained& a, const Trained& b) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.roots[0].size(); ++i) {
    const double x = a.roots[0][i], y = b.roots[0][i];
    error += (x - y) * (x - y);
    norm += x * x;
  }
  return std::sqrt(error / norm);
}

struct TunedRun {
  Trained trained;
  std::string choice;
  TuningReport report;
};

TunedRun run(const Stream& compute, Precision precision, bool graphs,
             const std::shared_ptr<PlanTuner>& tuner) {
  const lockstep::Graph graph = small_graph();
  const Data data(graph, 1, 16, {16});
  CudaOptions options;
  options.precision = precision;
  options.graph = graphs;
  options.tuner = tuner;
  TunedRun result;
  const test::Compile compile = [&](const lockstep::Graph& model, const ExecutorOptions& executor) {
    auto made = compile_cuda(model, executor, options, compute);
    result.choice = made->plan_choice();
    return made;
  };
  // The third time, what was captured is launched.
  result.trained =
      test::train_once(compile, graph, data, 1, {0, 1}, 3, precision == Precision::fp16 ? 256.f : 1.f);
  for (const float g : result.trained.roots[0]) EXPECT_TRUE(std::isfinite(g));
  if (tuner) result.report = tuner->take_report();
  return result;
}

TuningCircumstances here(const Device& device) {
  TuningCircumstances c;
  c.device = device.info().name;
  return c;
}

TEST(GpuAutotune, TheSecondTimeEverythingComesFromTheCacheAndResultsAgree) {
  LOCKSTEP_NEED_GPU();
  const Stream compute = Stream::create();
  // As in the tests of executors: float32 through a few layers, and factors of fewer bits.
  const auto rounded = [](double u) { return 32 * u + std::sqrt(8 * u); };
  const struct {
    Precision precision;
    double bound;
  } cases[] = {{Precision::fp32, 1.5e-4},
               {Precision::tf32, rounded(unit_roundoff_tf32)},
               {Precision::bf16, rounded(unit_roundoff_bf16)},
               {Precision::fp16, rounded(unit_roundoff_fp16)}};
  for (const auto& [precision, bound] : cases) {
    const TempDir dir;
    const std::string path = dir / "plans.txt";
    const TunedRun plain = run(compute, precision, true, nullptr);
    const TunedRun first = run(compute, precision, true, std::make_shared<PlanTuner>(here(device), path));
    const TunedRun second = run(compute, precision, true, std::make_shared<PlanTuner>(here(device), path));
    const TunedRun uncaptured =
        run(compute, precision, false, std::make_shared<PlanTuner>(here(device), path));
    EXPECT_GE(first.report.tuned, 8u) << "two convolutions and two dense layers, three passes but one";
    EXPECT_EQ(first.report.untuned, 0u) << first.report.why_untuned;
    EXPECT_EQ(first.report.cached, 0u);
    EXPECT_EQ(second.report.tuned, 0u);
    EXPECT_EQ(second.report.cached, first.report.tuned);
    EXPECT_EQ(first.report.cache_problem + second.report.cache_problem, "");
    EXPECT_EQ(second.choice, first.choice);
    EXPECT_EQ(second.trained.roots, first.trained.roots) << "the same plans give the same bits";
    EXPECT_EQ(uncaptured.trained.roots, first.trained.roots);
    EXPECT_LE(distance(plain.trained, first.trained), bound);
    EXPECT_NEAR(plain.trained.results[0].loss, first.trained.results[0].loss,
                bound * (1 + std::abs(plain.trained.results[0].loss)));
  }
}

TEST(GpuAutotune, WhatRank0MeasuredIsTakenByAnotherExecutor) {
  LOCKSTEP_NEED_GPU();
  const Stream compute = Stream::create();
  const TunedRun measured =
      run(compute, Precision::bf16, true, std::make_shared<PlanTuner>(here(device), ""));
  CudaOptions options;
  options.precision = Precision::bf16;
  ExecutorOptions named;
  named.slice_rows = 16;
  named.plan_choice = measured.choice;
  EXPECT_EQ(compile_cuda(small_graph(), named, options, compute)->plan_choice(), measured.choice);
}

TEST(GpuAutotune, TimesAreAboutThoseOfTheWork) {
  LOCKSTEP_NEED_GPU();
  const Stream compute = Stream::create();
  CudaOptions options;
  options.precision = Precision::bf16;
  const DenseLibrary library(options, compute);
  const auto fastest = [&](std::int64_t rows) {
    const DenseShape shape{rows, 4096, 4096};
    const auto candidates = library.candidates(DensePass::forward, shape);
    const PlanTuner::Measured measured =
        time_plans(*candidates, bytes_of(DensePass::forward, shape, options.precision), compute, {}, 10, {});
    EXPECT_FALSE(measured.plans.empty()) << measured.problem;
    const auto chosen = choose_plan(measured.plans, 0);
    return chosen ? measured.plans[*chosen].seconds : 0.0;
  };
  const double small = fastest(2048), large = fastest(16384);
  EXPECT_GT(small, 0);
  // Eight times the work; a measurement that saw launches instead of kernels would see equal times.
  EXPECT_GT(large, 4 * small);
  EXPECT_LT(large, 16 * small);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(GpuAutotune, WithoutMemoryTheHeuristicsPlanIsTaken) {
  LOCKSTEP_NEED_GPU();
  const Stream compute = Stream::create();
  CudaOptions options;
  const DenseLibrary library(options, compute);
  // Tensors of a petabyte, for a product that is small.
  const auto candidates = library.candidates(DensePass::forward, {16, 16, 16});
  const std::size_t petabyte = std::size_t{1} << 50;
  const PlanTuner::Measured measured = time_plans(*candidates, {petabyte, 64, 0, 64}, compute, {}, 10, {});
  EXPECT_TRUE(measured.plans.empty());
  EXPECT_THAT(measured.problem, testing::HasSubstr("GPU memory"));
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  compute.synchronize();
}

}  // namespace
}  // namespace lockstep::cuda
