#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "comm/threads/thread_communicator.h"
#include "core/block_hash.h"
#include "core/error.h"
#include "core/numerics/finite.h"
#include "trainer/guard/guard.h"
#include "trainer/guard/recompute_check.h"
#include "trainer/guard/replica_check.h"

namespace lockstep {
namespace {

using Ranks = std::vector<int>;

TEST(Finite, EveryPlaceAndKindIsSeen) {
  std::mt19937 random(1);
  std::vector<float> values(70'001);
  for (float& v : values) v = 3e38f * std::uniform_real_distribution<float>(-1, 1)(random);
  values[5] = std::numeric_limits<float>::denorm_min();
  values[6] = -std::numeric_limits<float>::max();
  EXPECT_TRUE(all_finite(values));
  EXPECT_TRUE(all_finite({}));
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::signaling_NaN()})
    for (const std::size_t at : {std::size_t{0}, std::size_t{17}, std::size_t{65'536}, values.size() - 1}) {
      const float good = values[at];
      values[at] = bad;
      EXPECT_FALSE(all_finite(values)) << bad << " at " << at;
      values[at] = good;
    }
}

TEST(BlockHash, EveryBitCounts) {
  std::mt19937 random(1);
  for (const std::size_t n : {std::size_t{1}, std::size_t{63}, std::size_t{64}, std::size_t{4096}}) {
    std::vector<std::uint32_t> bits(n);
    for (std::uint32_t& word : bits) word = static_cast<std::uint32_t>(random());
    const std::span<const float> values(reinterpret_cast<const float*>(bits.data()), n);
    const std::uint64_t want = hash_floats(values);
    for (int i = 0; i < 2000; ++i) {
      const std::size_t at = random() % n;
      const std::uint32_t bit = std::uint32_t{1} << (random() % 32);
      bits[at] ^= bit;
      EXPECT_NE(hash_floats(values), want);
      bits[at] ^= bit;
    }
    EXPECT_EQ(hash_floats(values), want);
  }
}

TEST(BlockHash, OrderAndLengthCount) {
  const std::vector<float> zeros(300);
  EXPECT_NE(hash_floats(std::span(zeros).first(100)), hash_floats(std::span(zeros).first(101)));
  std::vector<float> a(256), b(256);
  for (std::size_t i = 0; i < 256; ++i) a[i] = b[i] = static_cast<float>(i);
  std::swap(b[0], b[64]);  // the same lane of the hash
  EXPECT_NE(hash_floats(a), hash_floats(b));
  const std::uint64_t hashes[] = {1, 2, 3}, swapped[] = {1, 3, 2};
  EXPECT_NE(hash_hashes(hashes), hash_hashes(swapped));
}

TEST(ReplicaVote, TheMajorityIsRightAndTwoRanksAreBothNamed) {
  const auto dissent = [](std::vector<std::uint64_t> votes) { return dissent_of(votes); };
  EXPECT_FALSE(dissent({5, 5, 5}).any());
  EXPECT_FALSE(dissent({5}).any());
  EXPECT_EQ(dissent({5, 6}).ranks, (Ranks{0, 1}));
  EXPECT_EQ(dissent({5, 6}).majority, -1);
  EXPECT_EQ(dissent({6, 5, 5}).ranks, Ranks{0});
  EXPECT_EQ(dissent({6, 5, 5}).majority, 1);
  EXPECT_EQ(dissent({5, 5, 7, 5, 8}).ranks, (Ranks{2, 4}));
  EXPECT_EQ(dissent({5, 5, 6, 6}).ranks, (Ranks{0, 1, 2, 3}));
  EXPECT_EQ(dissent({5, 5, 6, 6}).majority, -1);
  EXPECT_EQ(dissent({5, 6, 7}).ranks, (Ranks{0, 1, 2}));
}

Ranks culprits(const RecomputeFinding& finding) {
  Ranks ranks;
  for (const auto& culprit : finding.culprits) ranks.push_back(culprit.rank);
  return ranks;
}

TEST(RecomputeVerdict, WhoeverIsWrongIsNamed) {
  // Three ranks, owner 1, checker 2.
  RecomputeFinding f = judge_recompute({9, 5, {5, 5, 5}}, 1, 2);  // the owner, for a moment
  EXPECT_TRUE(f.decided);
  EXPECT_EQ(culprits(f), Ranks{1});
  EXPECT_FALSE(f.culprits[0].again);
  EXPECT_NE(f.reference, 1);
  f = judge_recompute({9, 5, {5, 9, 5}}, 1, 2);  // the owner, for good
  EXPECT_EQ(culprits(f), Ranks{1});
  EXPECT_TRUE(f.culprits[0].again);
  f = judge_recompute({5, 9, {5, 5, 8}}, 1, 2);  // the checker, differently each time
  EXPECT_EQ(culprits(f), Ranks{2});
  EXPECT_TRUE(f.culprits[0].again);
  f = judge_recompute({5, 9, {5, 5, 5}}, 1, 2);
  EXPECT_EQ(culprits(f), Ranks{2});
  EXPECT_FALSE(f.culprits[0].again);
  // Two ranks.
  f = judge_recompute({9, 5, {5, 5}}, 0, 1);
  EXPECT_TRUE(f.decided);
  EXPECT_EQ(culprits(f), Ranks{0});
  EXPECT_EQ(f.reference, 1);
  f = judge_recompute({9, 5, {8, 5}}, 0, 1);  // contradicts itself
  EXPECT_TRUE(f.decided);
  EXPECT_EQ(culprits(f), Ranks{0});
  EXPECT_TRUE(f.culprits[0].again);
  f = judge_recompute({9, 5, {9, 5}}, 0, 1);
  EXPECT_FALSE(f.decided);
  EXPECT_EQ(culprits(f), (Ranks{0, 1}));
  // One rank contradicts itself.
  f = judge_recompute({9, 5, {5}}, 0, 0);
  EXPECT_EQ(culprits(f), Ranks{0});
  EXPECT_EQ(f.reference, 0);
}

TEST(RecomputePlan, EverySliceAndEveryOtherRankHasItsTurn) {
  const EpochOrder order(1000, 64, 8, 1);
  for (const int ranks : {1, 2, 3, 4, 8}) {
    std::set<std::pair<std::int64_t, int>> seen;
    for (std::int64_t check = 0; check < 8 * 7; ++check) {
      const RecomputePlan plan = recompute_plan(order, order.batch_at(0), check, ranks);
      const Node mine = slices_of_rank(8, plan.owner, ranks);
      EXPECT_TRUE(plan.slice >= mine.begin && plan.slice < mine.end);
      EXPECT_EQ(plan.checker == plan.owner, ranks == 1);
      seen.insert({plan.slice, plan.checker});
    }
    EXPECT_EQ(seen.size(), 8u * static_cast<std::size_t>(ranks == 1 ? 1 : ranks - 1));
  }
  // The last batch has two samples: only slices that hold one are computed again.
  const EpochOrder uneven(66, 64, 8, 1);
  for (std::int64_t check = 0; check < 16; ++check) {
    const BatchRange last = uneven.batch_at(64);
    EXPECT_GT(uneven.rows_of(last, recompute_plan(uneven, last, check, 3).slice).valid, 0);
  }
}

TEST(SpikeWindow, BoundIsTheFactorTimesTheMeanOfTheLastLosses) {
  SpikeWindow window(3, 2);
  EXPECT_FALSE(window.bound());
  window.push(1);
  EXPECT_FALSE(window.bound());
  window.push(3);
  EXPECT_EQ(window.bound(), 6.0);
  window.push(5);
  EXPECT_EQ(window.bound(), 12.0);
  EXPECT_EQ(window.history(), (std::vector<double>{3, 5}));
}

TEST(SpikeWindow, GoesOnWithTheSameBitsFromItsHistory) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> loss(0.1, 3);
  SpikeWindow window(4, 7);
  for (int i = 0; i < 60; ++i) {
    window.push(loss(random));
    const std::string text = nlohmann::json(window.history()).dump();
    SpikeWindow again(4, 7);
    again.restore(nlohmann::json::parse(text).get<std::vector<double>>());
    for (int k = 0; k < 9; ++k) {
      const double next = loss(random);
      window.push(next);
      again.push(next);
      EXPECT_EQ(window.bound(), again.bound());
    }
  }
}

TEST(GuardState, GoesThroughACheckpointAndRefusesWhatItDidNotWrite) {
  run_ranks(1, {}, [](Communicator& comm) {
    Config::Guard options;
    options.nonfinite = "skip";
    options.limit = 2;
    Guard guard(options, comm, 1);
    guard.skip({7, 70, 1, "why", {3, 1, 2}});
    guard.skip({2, 20, 0, "why not", {9}});
    EXPECT_FALSE(guard.may_skip());
    EXPECT_TRUE(guard.skips(2) && guard.skips(7) && !guard.skips(3));
    EXPECT_EQ(guard.skipped_before(7), 1);
    EXPECT_EQ(guard.skipped_before(8), 2);
    Guard again(options, comm, 1);
    RunState state;
    state.generation = 1;
    state.slices = 1;
    state.guard = guard.state();
    const nlohmann::json stored = nlohmann::json::parse(to_json(state).dump());
    again.restore(run_state_from_json(stored).guard);
    EXPECT_EQ(again.state(), guard.state());
    EXPECT_EQ(again.skipped()[1].samples, (std::vector<std::int64_t>{3, 1, 2}));
    for (const char* bad : {R"({"skipped": 3})", R"({"skipped": [{"step": "x"}]})", R"({"losses": "no"})",
                            R"({"skipped": [{"step": 1}]})", "[1]",
                            R"({"skipped": [{"step":0,"position":0,"epoch":1,"reason":"","samples":[]}]})"}) {
      nlohmann::json changed = stored;
      changed["extra"]["guard"] = nlohmann::json::parse(bad);
      EXPECT_NE(run_state_from_json(changed).fault, "") << bad;
    }
  });
}

}  // namespace
}  // namespace lockstep
