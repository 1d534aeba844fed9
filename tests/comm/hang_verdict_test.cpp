#include "watch/hang_verdict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "watch/node_watch.h"

namespace lockstep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using Presence = RankView::Presence;

FlightEvent event(Activity activity, std::int64_t step, std::uint64_t call = 0, std::int64_t bucket = -1,
                  std::uint64_t bytes = 0) {
  FlightEvent e;
  e.number = 1;
  e.activity = activity;
  e.step = step;
  e.call = call;
  e.bucket = bucket;
  e.bytes = bytes;
  e.begin_ns = 1'000'000'000;
  return e;
}

RankView rank(int number, const FlightEvent& now, double quiet) {
  RankView v;
  v.rank = number;
  v.local_rank = number;
  v.host = "node" + std::to_string(number / 4);
  v.pid = 800 + number;
  v.quiet = quiet;
  v.now = now;
  v.now_age = quiet;
  v.patience = patience_of(now.activity);
  v.clock_ns = 70'000'000'000;
  v.events = {now};
  if (now.call > 0) v.calls = {now};
  return v;
}

/// Eight ranks that have waited in bucket 12 of step 840 for a minute.
std::vector<RankView> eight_waiting(double quiet = 61) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 8; ++r) ranks.push_back(rank(r, event(Activity::exchange, 840, 5000, 12, 4096), quiet));
  return ranks;
}

const HangLimits minute{60, 75, true, true};

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
