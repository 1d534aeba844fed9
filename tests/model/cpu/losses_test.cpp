// Cross-entropy and mean squared error against their definitions in float64.
#include "model/cpu/op_harness.h"

namespace lockstep::op_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// The kernel of a loss, run over `x`, which holds `width` numbers a row. `diff`: null in evaluation.
SliceResult run_loss(const OpAttrs& loss, std::int64_t width, const float* x, const SliceBatch& batch,
                     float* diff) {
  Graph graph;
  graph.loss.attrs = loss;
  cpu::KernelSpec spec;
  spec.graph = &graph;
  spec.rows = batch.rows;
  spec.training = diff != nullptr;
  spec.inputs = {{width, 1, 1, 1}};
  spec.output = spec.inputs[0];
  const auto kernel = cpu::make_kernel(spec);
  const std::size_t values = at(batch.rows * width) * sizeof(float);
  const std::size_t sums = (2 * values + 63) / 64 * 64;
  std::vector<std::byte> arena(sums + kernel->needs().saved + 64);
  std::memcpy(arena.data(), x, values);
  std::fill_n(reinterpret_cast<float*>(arena.data() + values), batch.rows * width, nan);
  cpu::Binding at_places;
  at_places.inputs = {0};
  at_places.diff_inputs = {diff != nullptr ? values : cpu::none};
  at_places.saved = sums;
  cpu::TaskContext ctx;
  ctx.arena = arena.data();
  ctx.batch = &batch;
  const std::size_t before = test::malloc_count();
  kernel->forward(0, 0, at_places, ctx);
  EXPECT_EQ(test::malloc_count(), before) << "a loss allocated memory";
  if (diff != nullptr) std::memcpy(diff, arena.data() + values, values);
  SliceResult result{0, 0, static_cast<double>(batch.valid)};
  const auto* rows = reinterpret_cast<const LossSums*>(arena.data() + sums);
  for (std::int64_t r = 0; r < batch.valid; ++r) {
    result.loss += rows[r].loss;
    result.correct += rows[r].correct;
  }
  return result;
}

SliceBatch batch_of(std::int64_t rows, std::int64_t valid) {
  SliceBatch batch;
  batch.rows = rows;
  batch.valid = valid;
  return batch;
}

TEST(CpuLosses, CrossEntropyEqualsItsDefinition) {
  for (const std::int64_t classes : {1, 2, 10, 16, 17, 255, 256, 257, 1000}) {
    for (const std::int64_t valid : {0, 1, 5, 7}) {
      for (const float deviation : {0.01f, 1.0f, 30.0f}) {
        const std::int64_t rows = 7;
        const auto x = random_floats(rows * classes, 1, 0, deviation);
        std::vector<std::int32_t> labels(7);
        for (std::int64_t r = 0; r < rows; ++r)
          labels[at(r)] = static_cast<std::int32_t>((r * 31 + 5) % classes);
        labels[3] = static_cast<std::int32_t>(
            std::max_element(x.begin() + 3 * classes, x.begin() + 4 * classes) - (x.begin() + 3 * classes));
        for (std::int64_t r = valid; r < rows; ++r) labels[at(r)] = -1;  // empty rows have none
        SliceBatch batch = batch_of(rows, valid);
        batch.labels = labels;
        std::vector<float> diff(x.size(), nan);
        const SliceResult result = run_loss(CrossEntropyAttrs{}, classes, x.data(), batch, diff.data());
        const SliceResult evaluated = run_loss(CrossEntropyAttrs{}, classes, x.data(), batch, nullptr);

        double loss = 0;
        double loss_bound = 0;
        double correct = 0;
        Tensor64 expected(x.size(), 0.0);
        Tensor64 bound(x.size(), 0.0);
        for (std::int64_t r = 0; r < valid; ++r) {
          const float* row = x.data() + r * classes;
          const double high = static_cast<double>(*std::max_element(row, row + classes));
          double range = 0;
          double total = 0;
          for (std::int64_t c = 0; c < classes; ++c) {
            const double below = high - static_cast<double>(row[c]);
            total += std::exp(-below);
            // x - max is rounded and exponentiated within 2 u; e^-t t is below 1 where the rounding grows.
            range = std::max(range, std::min(below, 104.0));
          }
          loss += std::log(total) + high - static_cast<double>(row[labels[at(r)]]);
          loss_bound += unit * (range + 2);
          correct += std::max_element(row, row + classes) - row == labels[at(r)] ? 1 : 0;
          for (std::int64_t c = 0; c < classes; ++c) {
            const double p = std::exp(static_cast<double>(row[c]) - high) / total;
            expected[at(r * classes + c)] = p - (c == labels[at(r)] ? 1 : 0);
            // Denormal exponentials are rounded to multiples of 2^-149.
            bound[at(r * classes + c)] =
                unit * (p * (2 * range + 4) + std::abs(expected[at(r * classes + c)])) + 2e-45;
          }
        }
        EXPECT_NEAR(result.loss, loss, loss_bound + 1e-12 * loss);
        EXPECT_EQ(result.correct, correct);
        EXPECT_EQ(result.weight, static_cast<double>(valid));
        expect_within(
            diff, expected, [&](std::size_t i) { return bound[i]; }, "gradient");
        // Evaluation gives the very same numbers.
        EXPECT_EQ(result.loss, evaluated.loss);
        EXPECT_EQ(result.correct, evaluated.correct);
      }
    }
  }
}

TEST(CpuLosses, CrossEntropyOfHugeLogits) {
  const std::vector<float> x = {3e38f, -3e38f, 0, 1e5f, 1e5f, 0};
  const std::vector<std::int32_t> labels = {1, 0};
  SliceBatch batch = batch_of(2, 2);
  batch.labels = labels;
  std::vector<float> diff(6, nan);
  const SliceResult result = run_loss(CrossEntropyAttrs{}, 3, x.data(), batch, diff.data());
  const double spread = static_cast<double>(3e38f) * 2;
  EXPECT_NEAR(result.loss, spread + std::log(2.0), spread * 1e-15);
  EXPECT_EQ(diff, (std::vector<float>{1, -1, 0, -0.5f, 0.5f, 0}));
}

TEST(CpuLosses, TheFirstOfEqualLogitsIsTheAnswer) {
  const std::vector<float> x = {1, 2, 2, 0, 2, 2, 5, 5, 5};
  const auto correct = [&](std::vector<std::int32_t> labels) {
    SliceBatch batch = batch_of(3, 3);
    batch.labels = labels;
    return run_loss(CrossEntropyAttrs{}, 3, x.data(), batch, nullptr).correct;
  };
  EXPECT_EQ(correct({1, 1, 0}), 3);
  EXPECT_EQ(correct({2, 2, 1}), 0);
  EXPECT_EQ(correct({0, 0, 2}), 0);
}

TEST(CpuLosses, MeanSquaredErrorEqualsItsDefinition) {
  for (const std::int64_t outputs : {1, 3, 64, 1000}) {
    for (const std::int64_t valid : {0, 1, 4, 5}) {
      const std::int64_t rows = 5;
      const auto x = random_floats(rows * outputs, 1);
      const auto target = random_floats(rows * outputs, 2, 1);
      SliceBatch batch = batch_of(rows, valid);
      batch.targets = target;
      std::vector<float> diff(x.size(), nan);
      const SliceResult result = run_loss(MeanSquaredErrorAttrs{}, outputs, x.data(), batch, diff.data());
      const SliceResult evaluated = run_loss(MeanSquaredErrorAttrs{}, outputs, x.data(), batch, nullptr);
      double loss = 0;
      Tensor64 expected(x.size(), 0.0);
      for (std::size_t i = 0; i < at(valid * outputs); ++i) {
        const double difference = static_cast<double>(x[i]) - static_cast<double>(target[i]);
        loss += difference * difference / static_cast<double>(outputs);
        expected[i] = 2 * difference / static_cast<double>(outputs);
      }
      EXPECT_NEAR(result.loss, loss, 1e-13 * (1 + loss));
      EXPECT_EQ(result.loss, evaluated.loss);
      EXPECT_EQ(result.weight, static_cast<double>(valid));
      EXPECT_EQ(result.correct, 0);
      expect_within(
          diff, expected, [&](std::size_t i) { return 1.001 * unit * std::abs(expected[i]); }, "gradient");
    }
  }
}

TEST(CpuLosses, NanIsSeenInTheLossUnlessItsRowIsEmpty) {
  std::vector<float> x = random_floats(3 * 20, 1);
  const std::vector<std::int32_t> labels = {0, 1, 2};
  const std::vector<float> targets(60, 0.0f);
  for (const std::size_t place : {0u, 1u, 17u, 19u}) {
    for (const std::size_t row : {0u, 2u}) {
      auto bad = x;
      bad[row * 20 + place] = nan;
      SliceBatch batch = batch_of(3, 2);
      batch.labels = labels;
      batch.targets = targets;
      std::vector<float> diff(60);
      const SliceResult entropy = run_loss(CrossEntropyAttrs{}, 20, bad.data(), batch, diff.data());
      EXPECT_EQ(std::isnan(entropy.loss), row == 0);
      EXPECT_LE(entropy.correct, 1) << "a row with NaN has no largest logit";
      for (std::size_t i = 40; i < 60; ++i) EXPECT_EQ(diff[i], 0);
      EXPECT_EQ(std::isnan(run_loss(MeanSquaredErrorAttrs{}, 20, bad.data(), batch, diff.data()).loss),
                row == 0);
      for (std::size_t i = 40; i < 60; ++i) EXPECT_EQ(diff[i], 0);
    }
  }
}

}  // namespace
}  // namespace lockstep::op_test
