#include "trainer/evaluate/regression.h"

#include <cmath>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mutex>
#include <random>
#include <set>

#include "comm/sync/gradient_sync.h"
#include "comm/threads/thread_communicator.h"
#include "data/memory_dataset.h"
#include "data/test_support.h"

namespace lockstep {
namespace {

using test::targets_only;

/// Scores of predictions for all samples, in batches of `slices` slices of `rows`.
std::vector<TargetScore> scores_of(Communicator& comm, const Dataset& data, const Normalizer& normalizer,
                                   const std::vector<float>& predictions, std::int64_t slices,
                                   std::int64_t rows) {
  const auto width = data.target_width();
  RegressionScores scores(comm, slices, data, normalizer);
  const Node mine = slices_of_rank(slices, comm.rank(), comm.size());
  for (std::int64_t first = 0; first < data.size(); first += slices * rows) {
    std::vector<SliceBatch> batch;
    std::vector<std::vector<float>> outputs;
    std::vector<std::vector<std::int64_t>> samples;
    for (std::int64_t s = mine.begin; s < mine.end; ++s) {
      auto& indices = samples.emplace_back();
      auto& output = outputs.emplace_back(static_cast<std::size_t>(rows * width), 12345.0f);
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t i = first + s * rows + r;
        if (i >= data.size()) break;
        indices.push_back(i);
        for (std::int64_t k = 0; k < width; ++k)
          output[static_cast<std::size_t>(r * width + k)] =
              predictions[static_cast<std::size_t>(i * width + k)];
      }
    }
    for (std::size_t i = 0; i < samples.size(); ++i) {
      SliceBatch& b = batch.emplace_back();
      b.rows = rows;
      b.valid = static_cast<std::int64_t>(samples[i].size());
      b.samples = samples[i];
    }
    scores.add(batch, outputs);
  }
  return scores.scores();
}

std::vector<TargetScore> scores_alone(const Dataset& data, const std::vector<float>& predictions,
                                      const Normalizer& normalizer = {}) {
  std::vector<TargetScore> scores;
  run_ranks(1, {},
            [&](Communicator& comm) { scores = scores_of(comm, data, normalizer, predictions, 2, 2); });
  return scores;
}

TEST(Regression, ScoresByHand) {
  const auto scores = scores_alone(targets_only(1, {1, 2, 3, 4, 5}), {1, 2, 4, 4, 3});
  ASSERT_EQ(scores.size(), 1u);
  EXPECT_DOUBLE_EQ(scores[0].mae, 3.0 / 5);
  EXPECT_DOUBLE_EQ(scores[0].rmse, std::sqrt(5.0 / 5));
  EXPECT_DOUBLE_EQ(scores[0].r2, 1 - 5.0 / 10);
  EXPECT_FALSE(scores[0].constant);
}

TEST(Regression, EveryTargetHasScoresOfItsOwn) {
  const auto scores = scores_alone(targets_only(2, {1, 10, 2, 20, 3, 30}), {1, 11, 2, 21, 3, 31});
  ASSERT_EQ(scores.size(), 2u);
  EXPECT_EQ(scores[0].mae, 0);
  EXPECT_EQ(scores[0].r2, 1);
  EXPECT_DOUBLE_EQ(scores[1].mae, 1);
  EXPECT_DOUBLE_EQ(scores[1].r2, 1 - 3.0 / 200);
  const TargetScore all = mean_of(scores);
  EXPECT_DOUBLE_EQ(all.mae, 0.5);
  EXPECT_DOUBLE_EQ(all.rmse, std::sqrt(0.5));
  EXPECT_DOUBLE_EQ(all.r2, 1 - 1.5 / 200);
}

TEST(Regression, ConstantTargetsHaveADefinedR2) {
  // Whose mean, summed and divided, is another number by rounding.
  const std::vector<float> tenth(7, 0.1f);
  auto scores = scores_alone(targets_only(1, tenth), tenth);
  EXPECT_TRUE(scores[0].constant);
  EXPECT_EQ(scores[0].r2, 1);
  std::vector<float> other = tenth;
  other[3] = 0.2f;
  scores = scores_alone(targets_only(1, tenth), other);
  EXPECT_EQ(scores[0].r2, 0);
  EXPECT_GT(scores[0].mae, 0);
}

TEST(Regression, ScaledTargetsAreScoredInTheUnitsOfTheData) {
  const MemoryDataset data = targets_only(1, {100, 200, 300, 400});
  Normalizer n;
  n.fit_targets(data);
  // One deviation off, everywhere.
  std::vector<float> predictions;
  for (const double t : {100.0, 200.0, 300.0, 400.0}) predictions.push_back(n.scaled_target(t, 0) + 1);
  const auto scores = scores_alone(data, predictions, n);
  EXPECT_NEAR(scores[0].mae, n.target_deviation()[0], 1e-4);
  EXPECT_NEAR(scores[0].r2, 0, 1e-6);
}

TEST(Regression, TheSameBitsOnAnyNumberOfRanks) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 3);
  const std::int64_t width = 3, samples = 1003;
  std::vector<float> t(static_cast<std::size_t>(width * samples)), p(t.size());
  for (std::size_t i = 0; i < t.size(); ++i) t[i] = normal(random), p[i] = t[i] + normal(random);
  const MemoryDataset data = targets_only(width, t);
  std::set<std::vector<std::uint64_t>> seen;
  std::mutex mutex;
  for (const int ranks : {1, 2, 3, 4, 7}) {
    run_ranks(ranks, {}, [&](Communicator& comm) {
      std::vector<std::uint64_t> bits;
      for (const TargetScore& s : scores_of(comm, data, Normalizer(), p, 6, 4))
        for (const double v : {s.mae, s.rmse, s.r2}) {
          std::uint64_t b;
          std::memcpy(&b, &v, sizeof b);
          bits.push_back(b);
        }
      const std::lock_guard lock(mutex);
      seen.insert(bits);
    });
  }
  EXPECT_EQ(seen.size(), 1u);
}

}  // namespace
}  // namespace lockstep
