#include <algorithm>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <numeric>
#include <random>
#include <set>

#include "core/numerics/tree.h"
#include "data/epoch_order.h"
#include "data/readers/synthetic.h"
#include "data/split.h"
#include "data/test_support.h"

namespace lockstep {
namespace {

using test::error_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// The slices of `rank` of `ranks`: contiguous runs, also where ranks do not divide the slices, and none for
/// some ranks where there are fewer slices than ranks.
Node slices_of(std::int64_t slices, int rank, int ranks) {
  return Node{slices * rank / ranks, slices * (rank + 1) / ranks};
}

/// Adds to `seen` what all ranks together compute of the batch at `position`; returns the next position.
std::int64_t consume(const EpochOrder& order, std::int64_t position, int ranks, std::vector<int>& seen,
                     std::vector<std::int64_t>& sequence) {
  const BatchRange batch = order.batch_at(position);
  const EpochOrder::Epoch epoch = order.epoch(batch.epoch);
  EXPECT_EQ(batch.position, position);
  EXPECT_GE(batch.count, 1);
  EXPECT_LE(batch.count, order.global_batch());
  EXPECT_LE(batch.first + batch.count, order.samples());
  std::int64_t rows = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const Node mine = slices_of(order.slices(), rank, ranks);
    for (std::int64_t s = mine.begin; s < mine.end; ++s) {
      const SliceRows place = order.rows_of(batch, s);
      EXPECT_EQ(place.capacity, order.global_batch() / order.slices());
      EXPECT_GE(place.valid, 0);
      EXPECT_LE(place.valid, place.capacity);
      EXPECT_EQ(place.first, rows);  // the slices tile the batch in order
      rows += place.valid;
      for (std::int64_t row = 0; row < place.valid; ++row) {
        const std::int64_t sample = epoch.sample(batch.first + place.first + row);
        EXPECT_TRUE(sample >= 0 && sample < order.samples());
        ++seen[static_cast<std::size_t>(sample)];
        sequence.push_back(sample);
      }
    }
  }
  EXPECT_EQ(rows, batch.count);
  return batch.next();
}

// G2: every sample index exactly once per epoch, for any ranks, slices, data set size and resume point.
TEST(DataOrder, EverySampleExactlyOncePerEpochAlsoAfterResumesOnOtherRanks) {
  std::mt19937_64 random(42);
  const auto below = [&](std::int64_t n) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
  };
  for (int round = 0; round < 600; ++round) {
    const std::int64_t slices = 1 + below(16);
    const std::int64_t batch = slices * (1 + below(9));
    const std::int64_t samples = 1 + below(round % 3 == 0 ? batch : 400);  // also sets smaller than a batch
    const std::uint64_t seed = random();
    const EpochOrder order(samples, batch, slices, seed);
    const std::int64_t epochs = 1 + below(3);
    std::vector<std::int64_t> sequence;
    std::int64_t position = 0;
    std::int64_t batches = 0;
    for (std::int64_t epoch = 0; epoch < epochs; ++epoch) {
      std::vector<int> seen(static_cast<std::size_t>(samples), 0);
      while (position < samples * (epoch + 1)) {
        // A resume at any batch: nothing but the integer goes on, and another number of ranks takes over.
        const EpochOrder resumed(samples, batch, slices, seed);
        position = consume(resumed, position, 1 + static_cast<int>(below(12)), seen, sequence);
        ++batches;
      }
      ASSERT_EQ(position, samples * (epoch + 1));  // no batch crosses an epoch
      ASSERT_TRUE(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }))
          << samples << " samples, batch " << batch << ", " << slices << " slices, epoch " << epoch;
    }
    EXPECT_EQ(batches, epochs * order.batches_per_epoch());
    // The sequence is that of one rank without any resume.
    std::vector<std::int64_t> alone;
    std::vector<int> ignored(static_cast<std::size_t>(samples), 0);
    for (std::int64_t at = 0; at < samples * epochs;) at = consume(order, at, 1, ignored, alone);
    ASSERT_EQ(sequence, alone);
  }
}

TEST(DataOrder, EpochsAndSeedsDifferAndEvaluationKeepsTheOrder) {
  const auto sequence = [](std::optional<std::uint64_t> seed, std::int64_t epoch) {
    const EpochOrder order(1000, 10, 2, seed);
    std::vector<std::int64_t> all;
    for (std::int64_t i = 0; i < 1000; ++i) all.push_back(order.epoch(epoch).sample(i));
    return all;
  };
  EXPECT_NE(sequence(1, 0), sequence(1, 1));
  EXPECT_NE(sequence(1, 0), sequence(2, 0));
  EXPECT_EQ(sequence(1, 3), sequence(1, 3));
  std::vector<std::int64_t> identity(1000);
  std::iota(identity.begin(), identity.end(), 0);
  EXPECT_EQ(sequence(std::nullopt, 0), identity);
  EXPECT_EQ(sequence(std::nullopt, 5), identity);
}

TEST(DataOrder, AnUnevenBatchSpreadsOverItsSlices) {
  const EpochOrder order(13, 8, 4, 1);  // batches of 8 and 5
  const BatchRange last = order.batch_at(8);
  EXPECT_EQ(last.count, 5);
  std::vector<std::int64_t> valid;
  for (std::int64_t s = 0; s < 4; ++s) valid.push_back(order.rows_of(last, s).valid);
  EXPECT_THAT(valid, ::testing::ElementsAre(1, 1, 1, 2));
  EXPECT_EQ(order.batch_at(13).epoch, 1);
  EXPECT_EQ(order.batch_at(13).first, 0);
  // One sample for four slices: three have nothing to do.
  const EpochOrder tiny(1, 8, 4, 1);
  valid.clear();
  for (std::int64_t s = 0; s < 4; ++s) valid.push_back(tiny.rows_of(tiny.batch_at(7), s).valid);
  EXPECT_THAT(valid, ::testing::ElementsAre(0, 0, 0, 1));
}

TEST(DataOrder, WhatCannotBeIsRefused) {
  EXPECT_THAT(error_of([] { EpochOrder(0, 8, 4, 1); }), HasSubstr("no samples"));
  EXPECT_THAT(error_of([] { EpochOrder(10, 8, 3, 1); }),
              HasSubstr("train.slices = 3 does not divide the global batch of 8"));
  EXPECT_THAT(error_of([] { EpochOrder(10, 4, 8, 1); }), HasSubstr("train.slices = 8"));
  EXPECT_NE(error_of([] { EpochOrder(10, 0, 1, 1); }), "");
  EXPECT_NE(error_of([] { EpochOrder(10, 8, 0, 1); }), "");
}

std::shared_ptr<const Dataset> numbered(std::int64_t n) {
  MemoryContent content;
  content.description = "numbers";
  content.file = "numbers";
  content.samples = n;
  content.sample_shape = Shape{1};
  for (std::int64_t i = 0; i < n; ++i) {
    content.floats.push_back(static_cast<float>(i));
    content.labels.push_back(static_cast<std::int32_t>(i % 7));
  }
  return std::make_shared<MemoryDataset>(std::move(content));
}

std::vector<std::int64_t> samples_of(const Dataset& data) {
  std::vector<std::int64_t> all;
  for (std::int64_t i = 0; i < data.size(); ++i) {
    float value = 0;
    FieldColumn(data, input_field).read(i, {&value, 1});
    EXPECT_EQ(FieldColumn(data, label_field).integer(i), static_cast<std::int32_t>(value) % 7);
    EXPECT_EQ(FieldColumn(data, input_field).floats(i)[0], value);
    all.push_back(static_cast<std::int64_t>(value));
  }
  return all;
}

TEST(DataSplit, PartsAreDisjointCoverAndFollowTheSeedAlone) {
  const auto file = numbered(1003);
  const SplitParts parts = split_dataset(file, {0.1, 0.29, 0, 5});
  EXPECT_EQ(parts.validation->size(), 100);
  EXPECT_EQ(parts.test->size(), 290);
  EXPECT_EQ(parts.train->size(), 613);
  std::vector<std::int64_t> all = samples_of(*parts.train);
  for (const auto& part : {parts.validation, parts.test}) {
    const auto some = samples_of(*part);
    all.insert(all.end(), some.begin(), some.end());
  }
  EXPECT_FALSE(std::is_sorted(all.begin(), all.end()));
  std::sort(all.begin(), all.end());
  std::vector<std::int64_t> expected(1003);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(all, expected);

  EXPECT_EQ(samples_of(*split_dataset(file, {0.1, 0.29, 0, 5}).test), samples_of(*parts.test));
  EXPECT_NE(samples_of(*split_dataset(file, {0.1, 0.29, 0, 6}).test), samples_of(*parts.test));
  EXPECT_THAT(parts.test->where(0), HasSubstr("'numbers' sample"));
}

TEST(DataSplit, TheLimitKeepsTheFirstOfTheTrainingSplitAndNothingElse) {
  const auto file = numbered(500);
  const SplitParts all = split_dataset(file, {0.2, 0, 0, 9});
  const SplitParts some = split_dataset(file, {0.2, 0, 30, 9});
  const auto train = samples_of(*all.train);
  EXPECT_EQ(samples_of(*some.train), std::vector<std::int64_t>(train.begin(), train.begin() + 30));
  EXPECT_EQ(samples_of(*some.validation), samples_of(*all.validation));
  EXPECT_EQ(split_dataset(file, {0, 0, 600, 9}).train, file);
  EXPECT_EQ(split_dataset(file, {0, 0, 0, 9}).train, file);
  EXPECT_EQ(split_dataset(file, {0, 0, 499, 9}).train->size(), 499);
  EXPECT_EQ(split_dataset(file, {0, 0, 0, 9}).test, nullptr);
}

TEST(DataSplit, SizesAreFloorsAndEmptyPartsAreRefused) {
  EXPECT_EQ(split_sizes(100, {0.29, 0, 0, 0}).validation, 29);  // 100 * 0.29 is 28.999… in float64
  EXPECT_EQ(split_sizes(7, {0.5, 0, 0, 0}).validation, 3);
  EXPECT_EQ(split_sizes(7, {0.5, 0, 0, 0}).train, 4);
  EXPECT_THAT(error_of([] {
                split_sizes(5, {0.1, 0, 0, 0});
              }),
              AllOf(HasSubstr("data.validation_fraction = 0.1 of 5 samples")));
  EXPECT_THAT(error_of([] { split_sizes(4, {0.5, 0.5, 0, 0}); }), HasSubstr("leave nothing of 4 samples"));
  EXPECT_NE(error_of([] { split_sizes(4, {0.75, 0.75, 0, 0}); }), "");
  for (const double bad : {-0.1, 1.0, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THAT(error_of([&] { split_sizes(100, {0, bad, 0, 0}); }), HasSubstr("data.test_fraction"));
  }
  EXPECT_THAT(error_of([] { split_dataset(numbered(3), {0, 0, -1, 0}); }), HasSubstr("data.limit = -1"));
}

TEST(DataSynthetic, WhatNobodyAskedForCostsNothing) {
  // Classes without a sample have no pattern: 10^8 of them would take 14 GB.
  EXPECT_EQ(make_synthetic({4, Shape{36}, 100'000'000, 0, 3}).floats,
            make_synthetic({4, Shape{36}, 4, 0, 3}).floats);
  EXPECT_THAT(error_of([] {
                make_synthetic({std::int64_t{1} << 40, Shape{36}, 3, 0, 3});
              }),
              HasSubstr("do not fit into memory"));
}

TEST(DataSynthetic, IsAFunctionOfItsOptionsAndCanBeLearnt) {
  const SyntheticOptions options{600, Shape{1, 6, 6}, 5, 0, 3};
  const MemoryContent a = make_synthetic(options);
  EXPECT_EQ(a.floats, make_synthetic(options).floats);
  SyntheticOptions more = options;
  more.samples = 700;
  const MemoryContent longer = make_synthetic(more);
  EXPECT_TRUE(std::equal(a.floats.begin(), a.floats.end(), longer.floats.begin()));
  SyntheticOptions other = options;
  other.seed = 4;
  EXPECT_NE(a.floats, make_synthetic(other).floats);
  // The nearest mean of the first half tells the classes of the second half apart, far better than the chance
  // of 0.2.
  std::vector<std::vector<double>> means(5, std::vector<double>(36, 0.0));
  for (std::size_t i = 0; i < 300; ++i) {
    for (std::size_t k = 0; k < 36; ++k) means[i % 5][k] += static_cast<double>(a.floats[i * 36 + k]) / 60.0;
  }
  int right = 0;
  for (std::size_t i = 300; i < 600; ++i) {
    std::vector<double> distance(5, 0.0);
    for (std::size_t c = 0; c < 5; ++c) {
      for (std::size_t k = 0; k < 36; ++k) {
        const double d = static_cast<double>(a.floats[i * 36 + k]) - means[c][k];
        distance[c] += d * d;
      }
    }
    const auto best = std::min_element(distance.begin(), distance.end()) - distance.begin();
    right += best == a.labels[i] ? 1 : 0;
  }
  EXPECT_GT(right, 240);
}

TEST(DataSynthetic, NumbersHaveMeanZeroAndDeviationOne) {
  const MemoryContent a = make_synthetic({500, Shape{40}, 0, 2, 1});
  ASSERT_EQ(a.targets.size(), 1000u);
  double sum = 0;
  double squares = 0;
  for (const float v : a.floats) {
    sum += static_cast<double>(v);
    squares += static_cast<double>(v) * static_cast<double>(v);
  }
  // 20,000 numbers: the mean's deviation is 0.0071, that of the mean square about 0.01; six of them are
  // allowed.
  EXPECT_NEAR(sum / 20000, 0.0, 0.045);
  EXPECT_NEAR(squares / 20000, 1.0, 0.06);
  EXPECT_THAT(error_of([] { make_synthetic({0, Shape{1}, 2, 0, 1}); }), HasSubstr("data.samples"));
  EXPECT_THAT(error_of([] {
                make_synthetic({std::int64_t{1} << 60, Shape{1 << 20}, 2, 0, 1});
              }),
              HasSubstr("do not fit into memory"));
}

}  // namespace
}  // namespace lockstep
