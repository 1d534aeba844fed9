// The main claim (G1, G5): one digest at any placement. Real mpirun launches of digest_program.

#include <cstdlib>
#include <gtest/gtest.h>
#include <map>
#include <set>

#include "support/digest_lines.h"

namespace lockstep::test {
namespace {

using Line = PlacementLine;

std::vector<Line> run(int ranks, const std::vector<std::string>& args,
                      const ProcessOptions& options = {.timeout_s = 240}) {
  return run_digest_program(DIGEST_PROGRAM, ranks, args, options);
}

std::string reference_digest(const std::string& model) {
  static std::map<std::string, std::string> known;
  std::string& digest = known[model];
  if (digest.empty()) {
    const auto lines = run(1, {model, "20", "1"});
    EXPECT_FALSE(lines.empty());
    if (!lines.empty()) digest = lines[0].digest;
  }
  return digest;
}

class AnyPlacement : public testing::TestWithParam<std::tuple<std::string, int>> {};

TEST_P(AnyPlacement, EndsInOneDigest) {
  const auto& [model, ranks] = GetParam();
  const std::string want = reference_digest(model);
  const auto lines = run(ranks, {model, "20", "1"});
  ASSERT_EQ(lines.size(), 36u);
  std::map<bool, std::set<std::int64_t>> state;
  std::set<std::int64_t> bucket_counts;
  for (const Line& line : lines) {
    EXPECT_EQ(line.digest, want) << ranks << " ranks, " << line.threads << " threads, overlap "
                                 << line.overlap << ", buckets of " << line.bucket << ", sharded "
                                 << line.sharded;
    state[line.sharded].insert(line.state_elements);
    bucket_counts.insert(line.buckets);
  }
  EXPECT_EQ(bucket_counts.size(), 3u) << "the three bucket sizes must give three bucket counts";
  // Optimizer state of rank 0: total / N when sharded, but for the edges of blocks (one per bucket at most).
  const double total = static_cast<double>(*state[false].begin());
  ASSERT_EQ(state[false].size(), 1u);
  for (const std::int64_t sharded : state[true])
    EXPECT_LE(static_cast<double>(sharded),
              total / ranks + 4096.0 * static_cast<double>(*bucket_counts.rbegin()))
        << total;
  if (ranks > 1) {
    EXPECT_LT(static_cast<double>(*state[true].begin()), total);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, AnyPlacement,
                         testing::Combine(testing::Values("cnn", "mlp"), testing::Values(1, 2, 3, 4)),
                         [](const auto& test) {
                           return std::get<0>(test.param) + "_" + std::to_string(std::get<1>(test.param)) +
                                  "ranks";
                         });

// What an optimizer brings: state of elements, norms of parameters, groups, and parameters without state.
TEST(Placement, OptimizersEndInOneDigestEach) {
  std::set<std::string> all;
  for (const std::string model : {"rmsprop", "adagrad", "lion", "lars", "lamb", "frozen"}) {
    std::set<std::string> digests;
    for (const int ranks : {1, 2, 3}) {
      const auto lines = run(ranks, {model, "6", "1", "few"});
      EXPECT_EQ(lines.size(), 3u) << model;
      for (const Line& line : lines) digests.insert(line.digest);
    }
    EXPECT_EQ(digests.size(), 1u) << model;
    all.insert(digests.begin(), digests.end());
  }
  EXPECT_EQ(all.size(), 6u) << "each is another training";
}

TEST(Placement, SequencesInLengthClassesEndInOneDigest) {
  std::set<std::string> digests;
  for (const int ranks : {1, 2, 3, 4})
    for (const Line& line : run(ranks, {"tokens", "12", "1"})) digests.insert(line.digest);
  EXPECT_EQ(digests.size(), 1u);
  for (const Line& line : run(2, {"tokens", "12", "2", "one"})) digests.insert(line.digest);
  EXPECT_EQ(digests.size(), 2u) << "another seed shows";
}

TEST(Placement, WithoutSharedMemoryTheDigestIsTheSame) {
  ProcessOptions options;
  options.timeout_s = 240;
  options.env["LOCKSTEP_NO_SHARED_MEMORY"] = "1";
  for (const Line& line : run(3, {"cnn", "20", "1"}, options))
    EXPECT_EQ(line.digest, reference_digest("cnn"));
}

TEST(Placement, AnotherSeedChangesTheDigest) {
  for (const std::string model : {"cnn", "mlp"}) {
    const auto lines = run(2, {model, "20", "2", "one"});
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_NE(lines[0].digest, reference_digest(model));
    const auto same = run(2, {model, "20", "1", "one"});
    ASSERT_EQ(same.size(), 1u);
    EXPECT_EQ(same[0].digest, reference_digest(model));
  }
}

TEST(Placement, ImagesThatVaryFromEpochToEpochEndInOneDigest) {
  std::set<std::string> digests;
  for (const int ranks : {1, 2, 3, 4}) {
    const auto lines = run(ranks, {"augmented", "20", "1", "threads"});
    ASSERT_EQ(lines.size(), 3u);
    for (const Line& line : lines) digests.insert(line.digest);
  }
  EXPECT_EQ(digests.size(), 1u);
  digests.insert(reference_digest("cnn"));
  for (const auto& [seed, what] : {std::pair("2", "one"), {"1", "flip"}}) {
    const auto lines = run(2, {"augmented", "20", seed, what});
    ASSERT_EQ(lines.size(), 1u);
    digests.insert(lines[0].digest);
  }
  EXPECT_EQ(digests.size(), 4u) << "augmentation, the seed and a flipped sign must show";
}

TEST(Placement, FlippingTheSignOfOneGradientOnOneRankChangesTheDigest) {
  for (const std::string model : {"cnn", "mlp"})
    for (const int ranks : {1, 3}) {
      const auto lines = run(ranks, {model, "20", "1", "flip"});
      ASSERT_EQ(lines.size(), 1u);
      EXPECT_NE(lines[0].digest, reference_digest(model)) << ranks;
    }
}

TEST(Placement, FastReductionTrainsToo) {
  const auto lines = run(3, {"mlp", "20", "1", "fast"});
  ASSERT_EQ(lines.size(), 1u);
}

}  // namespace
}  // namespace lockstep::test
