#include "comm/mpi/pair_probe.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <set>

#include "comm/threads/thread_communicator.h"

namespace lockstep {
namespace {

TEST(PairProbe, AllPairsUpToTheLimitThenASample) {
  for (const int ranks : {1, 2, 3, 7, 16, 17, 64, 128, 129, 1000, 100000}) {
    const auto pairs = pairs_to_probe(ranks, 120);
    const std::int64_t all = static_cast<std::int64_t>(ranks) * (ranks - 1) / 2;
    if (all <= 120) {
      EXPECT_EQ(static_cast<std::int64_t>(pairs.size()), all);
    } else {
      EXPECT_GE(pairs.size(), 100u) << ranks;
      EXPECT_LE(pairs.size(), 121u) << ranks;
    }
    EXPECT_EQ(std::set(pairs.begin(), pairs.end()).size(), pairs.size());
    std::set<int> touched;
    for (const auto& [a, b] : pairs) {
      EXPECT_TRUE(0 <= a && a < b && b < ranks) << a << " " << b << " of " << ranks;
      touched.insert({a, b});
    }
    // The sample is spread over the ranks.
    EXPECT_GE(touched.size(), ranks == 1 ? 0u : static_cast<std::size_t>(std::min(ranks, 120)));
  }
}

TEST(PairProbe, EveryPairIsMeasuredAndEveryClockRead) {
  for (const std::vector<int>& groups : {std::vector<int>{1}, {2}, {4}, {2, 1}}) {
    int ranks = 0;
    for (const int g : groups) ranks += g;
    run_ranks(ranks, groups, [&](Communicator& comm) {
      const auto pairs = pairs_to_probe(ranks, 100);
      const auto probes = probe_pairs(comm, pairs, 100000);
      const auto clocks = probe_clocks(comm);
      if (comm.rank() != 0) {
        EXPECT_TRUE(probes.empty() && clocks.empty());
        return;
      }
      ASSERT_EQ(probes.size(), pairs.size());
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        EXPECT_EQ(std::pair(probes[i].a, probes[i].b), pairs[i]);
        EXPECT_GT(probes[i].latency, 0);
        EXPECT_LT(probes[i].latency, 1);
        EXPECT_GT(probes[i].bytes_per_second, 1e4);
      }
      ASSERT_EQ(clocks.size(), static_cast<std::size_t>(ranks));
      for (std::size_t r = 1; r < clocks.size(); ++r) {
        // They are one clock, so the truth lies within the bounds.
        EXPECT_GT(clocks[r].uncertainty, 0);
        EXPECT_LE(std::abs(clocks[r].offset), clocks[r].uncertainty + 1e-6);
      }
    });
  }
}

}  // namespace
}  // namespace lockstep
