// Which plan is taken, from measured times, from the cache, and from what another rank chose.

#include "model/cuda/tuning/plan_tuner.h"

#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <set>
#include <vector>

#include "model/cuda/fake_plan_library.h"
#include "model/cuda/tuning/plan_picker.h"
#include "support/temp_dir.h"

namespace lockstep::cuda {
namespace {

using test::FakePlanLibrary;
using test::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

TEST(ChoosePlan, TakesTheFastest) {
  const std::vector<TimedPlan> plans = {{"a", 3}, {"b", 1}, {"c", 2}};
  EXPECT_EQ(choose_plan(plans, 0.03), 1u);
}

TEST(ChoosePlan, NoiseDoesNotGoAgainstTheHeuristicsOrder) {
  const std::vector<TimedPlan> plans = {{"a", 1.029}, {"b", 1.01}, {"c", 1.0}, {"d", 1.0}};
  EXPECT_EQ(choose_plan(plans, 0.03), 0u);
  EXPECT_EQ(choose_plan(plans, 0.02), 1u);
  EXPECT_EQ(choose_plan(plans, 0.0), 2u) << "of equal ones the first";
  // The same plans measured again, with other noise below the margin.
  const std::vector<TimedPlan> again = {{"a", 1.0}, {"b", 1.02}, {"c", 1.025}, {"d", 1.01}};
  EXPECT_EQ(choose_plan(again, 0.03), choose_plan(plans, 0.03));
}

TEST(ChoosePlan, PassesOverWhatIsNoTime) {
  EXPECT_EQ(choose_plan(std::vector<TimedPlan>{{"a", nan}, {"b", -1}, {"c", 5}, {"d", infinity}}, 0.03), 2u);
  EXPECT_EQ(choose_plan(std::vector<TimedPlan>{{"a", nan}, {"b", infinity}}, 0.03), std::nullopt);
  EXPECT_EQ(choose_plan({}, 0.03), std::nullopt);
  EXPECT_EQ(choose_plan(std::vector<TimedPlan>{{"a", 1e-9}, {"b", 0}}, 0.03), 1u);
}

TEST(Median, IsTheMiddleValue) {
  EXPECT_EQ(median({5, 1, 3}), 3);
  EXPECT_EQ(median({4, 1, 3, 2}), 2);
  EXPECT_EQ(median({1, 1, 1, 1, 900, 1, 1}), 1) << "one run that was disturbed does not count";
  EXPECT_FALSE(std::isfinite(median({})));
}

TuningCircumstances h100() {
  TuningCircumstances c;
  c.device = "NVIDIA H100, 132 multiprocessors";
  c.capability_major = 9;
  c.driver = "CUDA runtime 13.0, driver for CUDA 13.0";
  c.libraries = "cuDNN 9.14.0, cuBLASLt 13.1.0";
  c.precision = "bf16";
  c.workspace_bytes = 1 << 30;
  return c;
}

/// A tuner with a library of one shape, and a clock that measuring moves.
struct Bench {
  explicit Bench(const std::string& path, const TuningCircumstances& circumstances = h100(),
                 const TuningLimits& limits = {})
      : tuner(circumstances, path, limits, [this] { return now; }) {}
  std::string pick(const std::string& what) {
    return tuner.pick(
        what, [&](const std::string& plan) { return offered.count(plan) != 0; },
        [&](const TuningLimits&, double seconds) {
          ++measurings;
          allowed = seconds;
          now += cost;
          return result;
        });
  }
  double now = 0, cost = 1, allowed = 0;
  int measurings = 0;
  std::set<std::string> offered = {"slow", "fast"};
  PlanTuner::Measured result = {{{"slow", 2e-3}, {"fast", 1e-3}}, ""};
  PlanTuner tuner;
};

TEST(PlanTuner, MeasuresOnceAndThenGoesByTheCache) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  Bench first(path);
  EXPECT_EQ(first.pick("conv"), "fast");
  EXPECT_EQ(first.pick("conv"), "fast") << "another executor of the same process";
  EXPECT_EQ(first.measurings, 1);
  first.tuner.save();
  TuningReport report = first.tuner.take_report();
  EXPECT_EQ(report.tuned, 1u);
  EXPECT_EQ(report.cached, 0u) << "what was measured in this process does not count as the cache's";
  EXPECT_EQ(report.seconds, 1);
  EXPECT_EQ(describe(report),
            "autotuning: the plans of 1 passes measured in 1.0s, those of 0 taken from '" + path + "'");
  EXPECT_TRUE(first.tuner.take_report().empty()) << "it is told once";

  Bench second(path);
  second.result.plans = {{"slow", 1e-3}, {"fast", 2e-3}};
  EXPECT_EQ(second.pick("conv"), "fast");
  EXPECT_EQ(second.measurings, 0);
  report = second.tuner.take_report();
  EXPECT_EQ(report.tuned, 0u);
  EXPECT_EQ(report.cached, 1u);
}

TEST(PlanTuner, WhatWasFoundReachesTheFileEveryTenSeconds) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  Bench bench(path);
  bench.cost = 4;
  const auto kept = [&] {
    PlanCache cache(path);
    std::size_t found = 0;
    for (const char* what : {"a", "b", "c", "d", "e", "f"})
      found += cache.find(describe(h100()) + "; " + what).has_value();
    return found;
  };
  const std::vector<std::size_t> wanted = {0, 0, 3, 3, 3, 6};
  std::size_t i = 0;
  for (const char* what : {"a", "b", "c", "d", "e", "f"}) {
    EXPECT_EQ(bench.pick(what), "fast");
    EXPECT_EQ(kept(), wanted[i++]) << what << ", " << bench.now << " s";
  }
}

TEST(PlanTuner, APlanThatTheLibraryHasNoMoreIsMeasuredAnew) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  Bench first(path);
  EXPECT_EQ(first.pick("conv"), "fast");
  first.tuner.save();
  Bench second(path);
  second.offered = {"slow"};
  second.result.plans = {{"slow", 2e-3}};
  EXPECT_EQ(second.pick("conv"), "slow");
  EXPECT_EQ(second.measurings, 1);
  second.tuner.save();
  Bench third(path);
  EXPECT_EQ(third.pick("conv"), "slow");
  EXPECT_EQ(third.measurings, 0);
}

TEST(PlanTuner, ADamagedCacheIsToldOfOnceAndTunedAnew) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  test::write_file_bytes(path, "lockstep-plans 1\nrubbish\n");
  Bench bench(path);
  EXPECT_EQ(bench.pick("conv"), "fast");
  EXPECT_EQ(bench.pick("dense"), "fast");
  bench.tuner.save();
  EXPECT_THAT(bench.tuner.take_report().cache_problem, HasSubstr("is damaged"));
  EXPECT_EQ(bench.tuner.take_report().cache_problem, "");
  Bench again(path);
  EXPECT_EQ(again.pick("dense"), "fast");
  EXPECT_EQ(again.measurings, 0);
}

TEST(PlanTuner, EveryCircumstanceHasPlansOfItsOwn) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  const auto remembered = [&](const TuningCircumstances& c) {
    Bench bench(path, c);
    (void)bench.pick("conv");
    bench.tuner.save();
    return bench.measurings == 0;
  };
  EXPECT_FALSE(remembered(h100()));
  EXPECT_TRUE(remembered(h100()));
  const auto with = [&](auto change) {
    TuningCircumstances c = h100();
    change(c);
    return remembered(c);
  };
  EXPECT_FALSE(with([](auto& c) { c.device = "NVIDIA A100, 108 multiprocessors"; }));
  EXPECT_FALSE(with([](auto& c) { c.capability_major = 10; }));
  EXPECT_FALSE(with([](auto& c) { c.capability_minor = 1; }));
  EXPECT_FALSE(with([](auto& c) { c.driver = "another"; }));
  EXPECT_FALSE(with([](auto& c) { c.libraries = "cuDNN 9.15.0"; }));
  EXPECT_FALSE(with([](auto& c) { c.precision = "fp32"; }));
  EXPECT_FALSE(with([](auto& c) { c.deterministic = false; }));
  EXPECT_FALSE(with([](auto& c) { c.workspace_bytes = 0; }));
  EXPECT_FALSE(with([](auto& c) { c.device = "two\nlines\tand more"; }));
  EXPECT_TRUE(with([](auto& c) { c.device = "two\nlines\tand more"; })) << "such a name is kept too";
  EXPECT_TRUE(remembered(h100())) << "they do not push each other out";
}

TEST(PlanTuner, LeavesToTheHeuristicsWhatCannotBeMeasured) {
  Bench bench("");
  bench.result = {{}, "3.2 GB of GPU memory could not be had"};
  EXPECT_EQ(bench.pick("conv big"), "");
  bench.result = {{{"a", nan}}, "it fails"};
  EXPECT_EQ(bench.pick("conv odd"), "");
  bench.result = {{}, ""};
  EXPECT_EQ(bench.pick("conv the library cannot"), "");
  const TuningReport report = bench.tuner.take_report();
  EXPECT_EQ(report.untuned, 2u) << "where the library has no plan there is nothing to tune";
  EXPECT_EQ(report.tuned, 0u);
  EXPECT_THAT(
      describe(report),
      HasSubstr("taken from no cache; 2 passes left to the heuristics, the first since of conv big no plan "
                "could be measured: 3.2 GB of GPU memory could not be had"));
  bench.result = {{{"fast", 1}}, ""};
  EXPECT_EQ(bench.pick("conv big"), "fast") << "a failure is not remembered";
  bench.result = {{{"nameless", 1}}, ""};
  EXPECT_EQ(bench.pick("conv strange"), "") << "other ranks could not have it either";
}

TEST(PlanTuner, StopsMeasuringWhenItsTimeIsUp) {
  TuningLimits limits;
  limits.shape_seconds = 10;
  limits.total_seconds = 25;
  Bench bench("", h100(), limits);
  bench.cost = 9;
  EXPECT_EQ(bench.pick("a"), "fast");
  EXPECT_EQ(bench.allowed, 10);
  EXPECT_EQ(bench.pick("b"), "fast");
  EXPECT_EQ(bench.pick("c"), "fast");
  EXPECT_EQ(bench.allowed, 7) << "of 25 seconds";
  EXPECT_EQ(bench.pick("d"), "");
  EXPECT_EQ(bench.measurings, 3);
  EXPECT_EQ(bench.pick("a"), "fast") << "what is known is known";
  EXPECT_THAT(describe(bench.tuner.take_report()), HasSubstr("autotuning may take 25s in all"));
}

// ---- the choice of an executor ----

constexpr ConvShape conv{8, 3, 32, 32, 16, 32, 32, 3, 3, 1, 1, 1, 1, 1};
constexpr DenseShape dense{8, 64, 10};

FakePlanLibrary library() {
  FakePlanLibrary made;
  made.plans[describe(ConvPass::forward, conv)] = {{"conv slow", 2}, {"conv fast", 1}};
  made.plans[describe(ConvPass::data, conv)] = {{"data slow", 2}, {"data fast", 1}};
  made.plans[describe(DensePass::forward, dense)] = {{"dense slow", 2}, {"dense fast", 1}};
  return made;
}

/// As a machine prepares its plans.
void prepare(PlanPicker& picker, FakePlanLibrary& made) {
  const auto one = [&](auto passes, const auto& shape) {
    EXPECT_TRUE(picker.pick(made, passes, shape, [&](auto pass, const TuningLimits&, double) {
      return made.measure(pass, shape);
    }));
  };
  for (int times = 0; times < 2; ++times) {  // equal layers
    one(std::initializer_list<ConvPass>{ConvPass::forward_bias_relu, ConvPass::forward}, conv);
    one(std::initializer_list<ConvPass>{ConvPass::data}, conv);
    one(std::initializer_list<DensePass>{DensePass::forward}, dense);
  }
  picker.save();
}

TEST(PlanPicker, WithoutATunerTakesTheHeuristicsFirst) {
  FakePlanLibrary made = library();
  PlanPicker picker("", nullptr);
  prepare(picker, made);
  EXPECT_THAT(made.measured, IsEmpty());
  EXPECT_EQ(made.name(ConvPass::forward, conv), "conv slow");
  EXPECT_EQ(picker.chosen().find(describe(ConvPass::data, conv)), "data slow");
}

TEST(PlanPicker, TakesTheFastestAndMeasuresEachShapeOnce) {
  const TempDir dir;
  FakePlanLibrary made = library();
  PlanTuner tuner(h100(), dir / "plans.txt");
  PlanPicker picker("", &tuner);
  prepare(picker, made);
  EXPECT_EQ(made.name(ConvPass::forward, conv), "conv fast");
  EXPECT_EQ(made.name(DensePass::forward, dense), "dense fast");
  EXPECT_EQ(picker.chosen().find(describe(ConvPass::forward, conv)), "conv fast");
  EXPECT_EQ(picker.chosen().find(describe(ConvPass::forward_bias_relu, conv)), "")
      << "the library has no fused plan, which is nothing chosen";
  EXPECT_THAT(made.measured,
              ElementsAre(describe(ConvPass::forward_bias_relu, conv), describe(ConvPass::forward, conv),
                          describe(ConvPass::data, conv), describe(DensePass::forward, dense)));
  EXPECT_EQ(tuner.take_report().tuned, 3u);

  // The next run.
  FakePlanLibrary again = library();
  PlanTuner later(h100(), dir / "plans.txt");
  PlanPicker next("", &later);
  prepare(next, again);
  EXPECT_EQ(next.chosen().text(), picker.chosen().text());
  EXPECT_THAT(again.measured, ElementsAre(describe(ConvPass::forward_bias_relu, conv)));
  EXPECT_EQ(later.take_report().cached, 3u);
}

TEST(PlanPicker, WhatWasChosenElsewhereGoesBeforeTheCache) {
  const TempDir dir;
  PlanNames names;
  names.set(describe(ConvPass::forward, conv), "conv slow");
  names.set(describe(ConvPass::data, conv), "data slow");
  names.set(describe(DensePass::forward, dense), "dense slow");
  {
    FakePlanLibrary made = library();
    PlanTuner tuner(h100(), dir / "plans.txt");
    PlanPicker picker("", &tuner);
    prepare(picker, made);
    ASSERT_NE(picker.chosen().text(), names.text());
  }
  FakePlanLibrary made = library();
  PlanTuner tuner(h100(), dir / "plans.txt");
  PlanPicker picker(names.text(), &tuner);
  prepare(picker, made);
  EXPECT_EQ(picker.chosen().text(), names.text());
  EXPECT_THAT(made.measured, IsEmpty());
  EXPECT_TRUE(tuner.take_report().empty());
}

TEST(PlanPicker, HasNothingWhereTheLibraryHasNothing) {
  FakePlanLibrary made;
  PlanTuner tuner(h100(), "");
  PlanPicker picker("", &tuner);
  EXPECT_FALSE(
      picker.pick(made, std::vector{ConvPass::forward}, conv,
                  [&](ConvPass pass, const TuningLimits&, double) { return made.measure(pass, conv); }));
  PlanPicker named("something else = p\n", &tuner);
  EXPECT_FALSE(
      named.pick(made, std::vector{ConvPass::forward}, conv,
                 [&](ConvPass pass, const TuningLimits&, double) { return made.measure(pass, conv); }));
}

// ---- what is measured ----

TEST(PassBytes, AreThoseOfTheTensors) {
  // x 8x3x32x32, y 8x16x32x32, w 16x3x3x3
  const std::size_t x = 8 * 3 * 32 * 32, y = 8 * 16 * 32 * 32, w = 16 * 3 * 3 * 3;
  EXPECT_EQ(bytes_of(ConvPass::forward, conv, Precision::fp32), (PassBytes{4 * x, 4 * w, 0, 4 * y}));
  EXPECT_EQ(bytes_of(ConvPass::forward_relu, conv, Precision::bf16), (PassBytes{2 * x, 2 * w, 0, 2 * y}));
  EXPECT_EQ(bytes_of(ConvPass::forward_bias, conv, Precision::fp16), (PassBytes{2 * x, 2 * w, 32, 2 * y}));
  EXPECT_EQ(bytes_of(ConvPass::forward_bias_relu, conv, Precision::tf32),
            (PassBytes{4 * x, 4 * w, 64, 4 * y}));
  EXPECT_EQ(bytes_of(ConvPass::data, conv, Precision::bf16), (PassBytes{2 * y, 2 * w, 0, 2 * x}));
  EXPECT_EQ(bytes_of(ConvPass::weights, conv, Precision::bf16), (PassBytes{2 * x, 2 * y, 0, 4 * w}));
  EXPECT_EQ(bytes_of(ConvPass::weights_16_bits, conv, Precision::bf16), (PassBytes{2 * x, 2 * y, 0, 2 * w}));
  // What fused passes read and write besides: 16 float32 are the least that a row of channels takes.
  EXPECT_EQ(bytes_of(ConvPass::forward_sums, conv, Precision::fp16),
            (PassBytes{2 * x, 2 * w, 0, 2 * y, 0, 2 * 64}));
  EXPECT_EQ(bytes_of(ConvPass::forward_norm_add_relu, conv, Precision::bf16),
            (PassBytes{2 * x, 2 * w, 0, 2 * y, 2 * y, 2 * 64}));
  EXPECT_EQ(bytes_of(ConvPass::data_norm, conv, Precision::fp16),
            (PassBytes{2 * y, 2 * w, 0, 2 * x, 2 * x, 9 * 64}));
  ConvShape grouped = conv;
  grouped.in_channels = 16;
  grouped.groups = 16;
  EXPECT_EQ(bytes_of(ConvPass::forward, grouped, Precision::fp32), (PassBytes{4 * y, 4 * 16 * 9, 0, 4 * y}));
  EXPECT_EQ(bytes_of(DensePass::forward, dense, Precision::fp32), (PassBytes{2048, 2560, 0, 320}));
  EXPECT_EQ(bytes_of(DensePass::forward_bias_relu, dense, Precision::bf16), (PassBytes{1024, 1280, 20, 160}));
  EXPECT_EQ(bytes_of(DensePass::data, dense, Precision::bf16), (PassBytes{160, 1280, 0, 1024}));
  EXPECT_EQ(bytes_of(DensePass::weights, dense, Precision::bf16), (PassBytes{1024, 160, 0, 2560}));
  EXPECT_EQ(bytes_of(DensePass::weights_bias, dense, Precision::bf16), (PassBytes{1024, 160, 40, 2560}));
  // GELU's input is as large as what a forward pass gives, or as a data gradient.
  EXPECT_EQ(bytes_of(DensePass::forward_gelu, dense, Precision::tf32), (PassBytes{2048, 2560, 0, 320}));
  EXPECT_EQ(bytes_of(DensePass::forward_bias_gelu, dense, Precision::bf16), (PassBytes{1024, 1280, 20, 160}));
  EXPECT_EQ(bytes_of(DensePass::forward_gelu_aux, dense, Precision::tf32),
            (PassBytes{2048, 2560, 0, 320, 0, 0, 320}));
  EXPECT_EQ(bytes_of(DensePass::forward_bias_gelu_aux, dense, Precision::bf16),
            (PassBytes{1024, 1280, 20, 160, 0, 0, 160}));
  EXPECT_EQ(bytes_of(DensePass::data_gelu, dense, Precision::bf16),
            (PassBytes{160, 1280, 0, 1024, 0, 0, 1024}));
}

}  // namespace
}  // namespace lockstep::cuda
