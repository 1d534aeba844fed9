#include "watch/hang_verdict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/hang_views.h"

namespace lockstep {
namespace {

using test::eight_waiting;
using test::event;
using test::minute;
using test::rank;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using Presence = RankView::Presence;

TEST(HangVerdict, WhoComputesWithoutProgressIsNamedWithHostPidAndPlace) {
  auto ranks = eight_waiting();
  ranks[5] = rank(5, event(Activity::compute, 840), 62);
  const auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(5));
  EXPECT_THAT(report->summary,
              HasSubstr("rank 5 on node1, pid 805: entered forward and backward of step 840, "));
  EXPECT_THAT(report->summary, HasSubstr("7 ranks wait in bucket 12 of step 840 (0-4,6-7)"));
  EXPECT_THAT(report->text, HasSubstr(report->summary));
}

TEST(HangVerdict, NothingIsOneBeforeTheTimeOutOrWithoutIt) {
  auto ranks = eight_waiting();
  ranks[5] = rank(5, event(Activity::compute, 840), 59);
  EXPECT_FALSE(judge(ranks, minute));
  ranks[5].quiet = 60;
  EXPECT_TRUE(judge(ranks, minute));
  EXPECT_FALSE(judge(ranks, {0, 0, true, true}));
}

TEST(HangVerdict, WhoMovesOnIsWaitedForHoweverLongTheOthersHaveWaited) {
  auto ranks = eight_waiting(10000);
  ranks[2] = rank(2, event(Activity::compute, 840), 0.1);
  ranks[2].now_age = 10000;
  EXPECT_FALSE(judge(ranks, minute));
}

TEST(HangVerdict, PhasesThatMayLastHaveTenTimesTheTimeUnlessTheProcessIsStopped) {
  for (const Activity phase : {Activity::save, Activity::compile, Activity::load_data, Activity::start}) {
    auto ranks = eight_waiting(500);
    ranks[0] = rank(0, event(phase, 840), 500);
    EXPECT_FALSE(judge(ranks, minute)) << name_of(phase);
    ranks[0].presence = Presence::stopped;
    EXPECT_TRUE(judge(ranks, minute)) << name_of(phase);
    ranks[0].presence = Presence::present;
    ranks[0].quiet = 600;
    const auto report = judge(ranks, minute);
    ASSERT_TRUE(report) << name_of(phase);
    EXPECT_THAT(report->culprits, ElementsAre(0));
  }
}

TEST(HangVerdict, AReaderOfResultsMayTakeHisTime) {
  auto ranks = eight_waiting(1e6);
  ranks[0] = rank(0, event(Activity::output, 840), 1e6);
  EXPECT_FALSE(judge(ranks, minute));
}

TEST(HangVerdict, TheStoppedTheDeadAndTheLostAreNamedThoughTheyStandWhereAllStand) {
  for (const Presence presence : {Presence::stopped, Presence::gone, Presence::frozen, Presence::silent,
                                  Presence::unreachable, Presence::failing}) {
    auto ranks = eight_waiting(70);
    ranks[0].presence = presence;
    ranks[0].unseen = 70;
    const auto report = judge(ranks, minute);
    ASSERT_TRUE(report) << static_cast<int>(presence);
    EXPECT_THAT(report->culprits, ElementsAre(0));
    EXPECT_THAT(report->summary, HasSubstr("rank 0 on node0, pid 800: "));
    EXPECT_THAT(report->summary, HasSubstr("7 ranks wait in bucket 12 of step 840 (1-7)"));
  }
}

TEST(HangVerdict, WhoLeftACollectiveOutIsFoundByMajority) {
  for (int victim = 0; victim < 4; ++victim) {
    std::vector<RankView> ranks;
    for (int r = 0; r < 4; ++r) ranks.push_back(rank(r, event(Activity::barrier, 5, 40), 61));
    ranks[static_cast<std::size_t>(victim)] = rank(victim, event(Activity::begin_step, 6, 40), 61);
    const auto report = judge(ranks, minute);
    ASSERT_TRUE(report);
    EXPECT_THAT(report->culprits, ElementsAre(victim));
    EXPECT_THAT(report->summary, HasSubstr("a collective was left out"));
    EXPECT_THAT(report->summary, HasSubstr("a barrier"));
  }
}

TEST(HangVerdict, WhoIsStoppedInMpiInitIsNamed) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 3; ++r) ranks.push_back(rank(r, event(Activity::mpi_init, -1), 61));
  ranks[2].presence = Presence::stopped;
  const auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(2));
}

TEST(HangVerdict, WhoWentToTheEndWaitsBehindTheOthers) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 3; ++r) ranks.push_back(rank(r, event(Activity::exchange, 5, 38, 0, 64), 61));
  ranks[1] = rank(1, event(Activity::free_window, 4), 61);
  ranks[1].calls = {event(Activity::barrier, 4, 37)};
  const auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(1));
  EXPECT_THAT(report->summary, HasSubstr("rank 1 on node0, pid 801: waits in freeing a shared window"));
}

TEST(HangVerdict, TheFirstDifferenceCountsNotWhereTheRanksStandNow) {
  // Rank 0 went on as the root of two broadcasts, which wait for nobody, and stands further than the others.
  std::vector<RankView> ranks;
  for (int r = 0; r < 3; ++r) {
    ranks.push_back(rank(r, event(Activity::barrier, 5, 40), 61));
    ranks.back().calls = {event(Activity::all_gather, 5, 39, -1, 8), event(Activity::barrier, 5, 40)};
  }
  ranks[0] = rank(0, event(Activity::barrier, 5, 42), 61);
  ranks[0].calls = {event(Activity::all_gather, 5, 39, -1, 8), event(Activity::broadcast, 5, 40, -1, 8),
                    event(Activity::broadcast, 5, 41, -1, 20), event(Activity::barrier, 5, 42)};
  const auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(0));
  EXPECT_THAT(report->summary, HasSubstr("a broadcast of 8 B, at step 5, and waits in a barrier"));
}

/// Its host is busy with the next step while its device is in collective `entered`, of bucket 2.
RankView on_device(int number, std::uint64_t entered, bool inside) {
  RankView v = rank(number, event(Activity::compute, 840), 61);
  v.device = {entered, inside ? entered - 1 : entered, 2};
  return v;
}

TEST(HangVerdict, WhoseDeviceWaitsInACollectiveWaitsThoughItsHostDoesNot) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 4; ++r) ranks.push_back(on_device(r, 13, true));
  ranks[2] = on_device(2, 12, false);  // still computes
  auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(2));
  EXPECT_THAT(report->summary,
              HasSubstr("rank 2 on node0, pid 802: entered forward and backward of step 840"));
  EXPECT_THAT(report->summary,
              HasSubstr("3 ranks wait in collective 13 on the device (bucket 2), the host in "
                        "forward and backward of step 840 (0-1,3)"));
  // One that is stopped, wherever its device is.
  ranks[2] = on_device(2, 13, true);
  ranks[1].presence = Presence::stopped;
  report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(1));
}

TEST(HangVerdict, WhoseDeviceLeftACollectiveOutIsBehindTheOthers) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 3; ++r) ranks.push_back(on_device(r, r == 1 ? 12 : 13, true));
  const auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(1));
  EXPECT_THAT(report->summary, HasSubstr("rank 1 on node0, pid 801: waits in collective 12 on the device"));
}

TEST(HangVerdict, WhoWorksInsideAWaitIsWaitedFor) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 3; ++r) ranks.push_back(rank(r, event(Activity::gather_parameters, 5, 40), 61));
  ranks[1].works = true;
  const auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(1));
  EXPECT_THAT(report->summary, HasSubstr("and has not moved on since"));
}

TEST(HangVerdict, WhoHasNotComeToTheDifferenceVotesByTheStepWhereItIs) {
  // Rank 1 left a save out and is a step ahead; rank 0 still waits for its part of it.
  std::vector<RankView> ranks;
  for (int r = 0; r < 3; ++r) {
    ranks.push_back(rank(r, event(Activity::broadcast, 5, 41, -1, 8), 61));
    ranks.back().calls = {event(Activity::barrier, 5, 40), event(Activity::broadcast, 5, 41, -1, 8)};
  }
  ranks[0] = rank(0, event(Activity::message, 5), 61);
  ranks[0].calls = {event(Activity::barrier, 5, 40)};
  ranks[1] = rank(1, event(Activity::begin_step, 6, 41), 61);
  ranks[1].calls = {event(Activity::barrier, 5, 40), event(Activity::begin_step, 6, 41)};
  const auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(1));
}

TEST(HangVerdict, OfTwoBothAreNamed) {
  const auto report = judge(
      {rank(0, event(Activity::barrier, 5, 40), 61), rank(1, event(Activity::all_gather, 5, 40, -1, 96), 61)},
      minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(0, 1));
  EXPECT_THAT(report->summary, HasSubstr("rank 0 on node0, pid 800: entered a barrier"));
  EXPECT_THAT(report->summary, HasSubstr("rank 1 on node0, pid 801: entered an all-gather of 96 B"));
}

TEST(HangVerdict, SizesAndStepsThatDifferAreDifferences) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 3; ++r) ranks.push_back(rank(r, event(Activity::all_gather, 5, 40, -1, 96), 61));
  ranks[1].calls[0].bytes = ranks[1].now.bytes = 104;
  auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(1));
  ranks[1] = rank(1, event(Activity::all_gather, 6, 40, -1, 96), 61);
  report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(1));
}

TEST(HangVerdict, BucketsThatDifferAreNot) {
  auto ranks = eight_waiting();
  ranks[3].now.bucket = 11;
  ranks[3].calls[0].bucket = 11;
  const auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, IsEmpty());
  EXPECT_THAT(report->summary, HasSubstr("a message was lost"));
}

TEST(HangVerdict, WhoEndedWhileOthersWaitIsNamedUnlessSomebodyIsWorse) {
  auto ranks = eight_waiting();
  ranks[1].presence = Presence::left;
  auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(1));
  EXPECT_THAT(report->summary, HasSubstr("has ended"));
  ranks[6].presence = Presence::stopped;
  report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(6));
  for (RankView& v : ranks) v.presence = Presence::left;
  EXPECT_FALSE(judge(ranks, minute));
}

TEST(HangVerdict, AnErrorOfItsOwnHasTimeToEndTheJobItself) {
  auto ranks = eight_waiting();
  ranks[1].presence = Presence::failing;
  ranks[1].quiet = 61;
  EXPECT_FALSE(judge(ranks, minute));
}

TEST(HangVerdict, OneRankAloneHangsToo) {
  const auto report = judge({rank(0, event(Activity::compute, 3), 60)}, minute);
  ASSERT_TRUE(report);
  EXPECT_THAT(report->culprits, ElementsAre(0));
  EXPECT_THAT(report->summary, Not(HasSubstr("wait")));
}

TEST(HangVerdict, ManyCulpritsAreNotAllSpeltOut) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 100; ++r) ranks.push_back(rank(r, event(Activity::compute, 3), 61));
  const auto report = judge(ranks, minute);
  ASSERT_TRUE(report);
  EXPECT_EQ(report->culprits.size(), 100u);
  EXPECT_THAT(report->summary, HasSubstr("and 92 more"));
}

}  // namespace
}  // namespace lockstep
