#include "comm/sync/step_control.h"

#include <gtest/gtest.h>
#include <numeric>
#include <vector>

#include "comm/collective_check.h"
#include "comm/threads/thread_communicator.h"
#include "core/error.h"

namespace lockstep {
namespace {

const std::vector<std::vector<int>> all_groups = {{1},    {2},    {3},       {1, 1},    {1, 1, 1},
                                                  {2, 1}, {1, 3}, {2, 2, 1}, {3, 1, 2}, {4, 4}};

TEST(StepControl, EveryRankHearsEveryWordAtTheSameStep) {
  for (const std::vector<int>& groups : all_groups) {
    run_ranks(std::accumulate(groups.begin(), groups.end(), 0), groups,
              [](Communicator& comm) { EXPECT_EQ(test::check_step_control(comm), ""); });
  }
}

TEST(StepControl, TellsOfTheSameStepUnlessSeveralGroupsHaveSeveralRanks) {
  for (const std::vector<int>& groups : all_groups) {
    const int ranks = std::accumulate(groups.begin(), groups.end(), 0);
    const bool several = groups.size() > 1 && static_cast<int>(groups.size()) < ranks;
    run_ranks(ranks, groups,
              [&](Communicator& comm) { EXPECT_EQ(StepControl(comm).lag(), several ? 1 : 0); });
  }
}

TEST(StepControl, AWordOfOneRankReachesAllOnce) {
  for (const std::vector<int>& groups : all_groups) {
    const int ranks = std::accumulate(groups.begin(), groups.end(), 0);
    for (int speaker = 0; speaker < ranks; ++speaker) {
      run_ranks(ranks, groups, [&](Communicator& comm) {
        StepControl control(comm);
        for (int step = 0; step < 8; ++step) {
          control.post(comm.rank() == speaker && step == 3 ? 5 : 0);
          EXPECT_EQ(control.collect(), step == 3 + control.lag() ? 5u : 0u) << "step " << step;
        }
      });
    }
  }
}

TEST(StepControl, WhoeverLeavesInMidStepLeavesNothingUnderWay) {
  for (const std::vector<int>& groups : all_groups) {
    const int ranks = std::accumulate(groups.begin(), groups.end(), 0);
    // Alike on all ranks, as a run that diverges: the next one on the same communicator is not disturbed.
    run_ranks(ranks, groups, [&](Communicator& comm) {
      try {
        StepControl control(comm);
        for (int step = 0; step < 3; ++step) {
          control.post(2);
          control.collect();
        }
        control.post(2);
        throw DivergenceError("the loss is not a number");
      } catch (const DivergenceError&) {
        comm.barrier();
      }
    });
  }
}

TEST(StepControl, AFailedPeerEndsTheWait) {
  EXPECT_THROW(run_ranks(3, {2, 1},
                         [](Communicator& comm) {
                           StepControl control(comm);
                           for (int step = 0; step < 10; ++step) {
                             if (comm.rank() == 1 && step == 5) throw InputError("the cause");
                             control.post(0);
                             control.collect();
                           }
                         }),
               InputError);
}

TEST(StepControl, CollectWithoutPostIsADefect) {
  run_ranks(1, {}, [](Communicator& comm) {
    StepControl control(comm);
    EXPECT_THROW(control.collect(), InternalError);
  });
}

}  // namespace
}  // namespace lockstep
