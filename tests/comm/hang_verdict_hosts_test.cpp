// Hangs of jobs on several hosts, of which some are lost, and of jobs whose ranks have not all come.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/hang_views.h"
#include "watch/hang_verdict.h"
#include "watch/node_watch.h"

namespace lockstep {
namespace {

using test::eight_waiting;
using test::event;
using test::minute;
using test::rank;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Presence = RankView::Presence;

TEST(HangVerdict, AllRanksOfALostHostAreNamed) {
  auto ranks = eight_waiting();
  for (int r = 4; r < 8; ++r) {
    ranks[static_cast<std::size_t>(r)].presence = Presence::unreachable;
    ranks[static_cast<std::size_t>(r)].unseen = 61;
  }
  const auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(report->summary, HasSubstr("its host has not answered for"));
  EXPECT_THAT(report->summary, HasSubstr("4 ranks wait in bucket 12 of step 840 (0-3)"));
  // A host that was heard of a moment ago is not lost.
  ranks[6].unseen = 20;
  EXPECT_FALSE(judge(ranks, minute));
  // One that has never answered may be behind a wall, and busy.
  ranks[6].unseen = 61;
  EXPECT_FALSE(judge(ranks, {60, 75, true, false}));
}

TEST(HangVerdict, AHostThatWasCutOffIsLostAndItsRanksAreNotBlamedForNotMoving) {
  // Ranks 4 to 7 were computing and had not moved for a while when their host was heard of last; then it was
  // cut off.
  for (const double timeout : {5.0, 60.0}) {
    for (double age = 0.05; age < 2 * timeout; age += 0.1) {
      auto ranks = eight_waiting(timeout);
      for (std::size_t r = 4; r < 8; ++r)
        ranks[r] = seen_from_afar(rank(static_cast<int>(r), event(Activity::compute, 840), timeout * 0.9),
                                  {age, 100, true, false}, timeout);
      const auto report = judge(ranks, {timeout, timeout, true, true});
      ASSERT_EQ(report.has_value(), age >= timeout) << age;
      if (!report) continue;
      EXPECT_THAT(report->culprits, ElementsAre(4, 5, 6, 7));
      EXPECT_THAT(report->summary, HasSubstr("its host has not answered for"));
    }
  }
  // Who is heard and has not moved for as long as it may is to blame.
  auto ranks = eight_waiting();
  ranks[5] = seen_from_afar(rank(5, event(Activity::compute, 840), 60), {0.5, 100, true, true}, 60);
  const auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(5));
  // Who took over asking a moment ago knows nothing yet.
  ranks[5] = seen_from_afar(rank(5, event(Activity::compute, 840), 60), {200, 1, true, false}, 60);
  EXPECT_FALSE(judge(ranks, minute));
}

TEST(HangVerdict, AHostWhoseWatchdogsMayNotGetTheCpuHasLongerToAnswer) {
  auto ranks = eight_waiting(69);
  for (int r = 4; r < 8; ++r) {
    ranks[static_cast<std::size_t>(r)].presence = Presence::silent;
    ranks[static_cast<std::size_t>(r)].unseen = 69;
  }
  EXPECT_FALSE(judge(ranks, minute));
  for (int r = 4; r < 8; ++r) ranks[static_cast<std::size_t>(r)].prompt = true;
  ASSERT_TRUE(judge(ranks, minute));
  EXPECT_THAT(judge(ranks, minute)->culprits, ElementsAre(4, 5, 6, 7));
  for (int r = 4; r < 8; ++r) {
    ranks[static_cast<std::size_t>(r)].prompt = false;
    ranks[static_cast<std::size_t>(r)].unseen = 71;
  }
  EXPECT_TRUE(judge(ranks, minute));
}

TEST(HangVerdict, WhoNeverStartedIsNamedAfterTheTimeForTheStart) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 3; ++r) ranks.push_back(rank(r, event(Activity::mpi_init, -1), 70));
  ranks[1] = {};
  ranks[1].rank = 1;
  ranks[1].host = "node0";
  ranks[1].presence = Presence::absent;
  ranks[1].quiet = 70;
  EXPECT_FALSE(judge(ranks, minute));
  for (RankView& v : ranks) v.quiet = 75;
  const auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(1));
  EXPECT_THAT(report->summary, HasSubstr("rank 1 on node0 has not started"));
  EXPECT_THAT(report->summary, HasSubstr("2 ranks wait in MPI_Init (0,2)"));
}

TEST(HangVerdict, WhenAllOfThisHostWaitInMpiInitNobodyHereIsBlamed) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 3; ++r) ranks.push_back(rank(r, event(Activity::mpi_init, -1), 599));
  EXPECT_FALSE(judge(ranks, {60, 75, false, true})) << "MPI's start may take its time";
  for (RankView& v : ranks) v.quiet = 600;
  const auto report = judge(ranks, {60, 75, false, true});
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, IsEmpty());
  EXPECT_THAT(report->summary, HasSubstr("ranks of other hosts"));
  HangLimits known{60, 75, false, true, 4};
  EXPECT_THAT(judge(ranks, known)->summary,
              HasSubstr("rank 3 of other hosts, or its launcher, has not come"));
  // A job of a few ranks needs no ten minutes; nor is it ended where a machine is busy and the time-out
  // short.
  for (RankView& v : ranks) v.quiet = 120;
  EXPECT_TRUE(judge(ranks, known));
  for (RankView& v : ranks) v.quiet = 119;
  EXPECT_FALSE(judge(ranks, known));
  for (RankView& v : ranks) v.quiet = 29;
  EXPECT_FALSE(judge(ranks, {5, 7, false, true, 4}));
  for (RankView& v : ranks) v.quiet = 31;
  EXPECT_TRUE(judge(ranks, {5, 7, false, true, 4}));
  EXPECT_FALSE(judge(ranks, {60, 75, false, true, 1000}));
  known.size = 6;
  for (RankView& v : ranks) v.quiet = 600;
  EXPECT_THAT(judge(ranks, known)->summary, HasSubstr("one or more of the ranks 3-5 of other hosts"));
}

TEST(HangVerdict, TheRendezvousHasTheTimeOfMpisStartWhereOtherHostsAreNotKnownYet) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 3; ++r) ranks.push_back(rank(r, event(Activity::rendezvous, -1, 1), 29));
  EXPECT_FALSE(judge(ranks, {5, 7, false, true, 4}));
  for (RankView& v : ranks) v.quiet = 31;
  const auto report = judge(ranks, {5, 7, false, true, 4});
  ASSERT_TRUE(report);
  EXPECT_THAT(report->summary, HasSubstr("or a rank of another host has not come"));
  for (RankView& v : ranks) v.quiet = 6;
  EXPECT_TRUE(judge(ranks, {5, 7, true, true, 3}));
  ranks[1].presence = Presence::stopped;
  EXPECT_TRUE(judge(ranks, {5, 7, false, true, 4})) << "the culprit is known";
}

TEST(HangVerdict, ViewsTravelWholeAndCutOnesAreRefused) {
  auto ranks = eight_waiting();
  ranks[3].process = "its process runs \"sh\"";
  ranks[2].device = {13, 12, 2};
  ranks[1].works = true;
  ranks[0].prompt = true;
  const std::string bytes = pack(ranks);
  const auto back = unpack_views(bytes);
  ASSERT_EQ(back.size(), ranks.size());
  EXPECT_EQ(back[3].process, ranks[3].process);
  EXPECT_EQ(back[2].device, ranks[2].device);
  EXPECT_TRUE(back[1].works);
  EXPECT_FALSE(back[2].works);
  EXPECT_TRUE(back[0].prompt);
  EXPECT_FALSE(back[1].prompt);
  EXPECT_EQ(back[7].host, "node1");
  EXPECT_EQ(back[7].now.bucket, 12);
  EXPECT_EQ(back[7].calls.size(), 1u);
  for (std::size_t n = 0; n < bytes.size(); n += 7) EXPECT_THAT(unpack_views(bytes.substr(0, n)), IsEmpty());
  std::string huge = bytes;
  for (int i = 0; i < 8; ++i) huge[static_cast<std::size_t>(i)] = '\xff';
  EXPECT_THAT(unpack_views(huge), IsEmpty());
}

}  // namespace
}  // namespace lockstep
