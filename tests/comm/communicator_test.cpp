#include "comm/communicator.h"

#include <atomic>
#include <gtest/gtest.h>
#include <vector>

#include "comm/collective_check.h"
#include "comm/threads/thread_communicator.h"
#include "core/error.h"

namespace lockstep {
namespace {

TEST(ThreadCommunicator, Collectives) {
  for (const std::vector<int>& groups : {std::vector<int>{1}, {2}, {3}, {1, 1}, {2, 1}, {1, 3}, {2, 2}}) {
    int ranks = 0;
    for (const int g : groups) ranks += g;
    run_ranks(ranks, groups, [](Communicator& comm) {
      EXPECT_EQ(test::check_collectives(comm), "");
      EXPECT_EQ(test::check_agree_on_error(comm), "");
    });
  }
}

TEST(ThreadCommunicator, TopologyNumbersGroupsInOrder) {
  const Topology t = make_topology(3, {2, 1, 3});
  EXPECT_EQ(t.size, 6);
  EXPECT_EQ(t.group_of, (std::vector<int>{0, 0, 1, 2, 2, 2}));
  EXPECT_EQ(t.group_begin, (std::vector<int>{0, 2, 3, 6}));
  EXPECT_EQ(t.group(), 2);
  EXPECT_EQ(t.local_rank(), 0);
  EXPECT_EQ(t.group_size(0), 2);
}

TEST(ThreadCommunicator, AbortEndsEveryRank) {
  std::atomic<int> ended{0};
  EXPECT_THROW(run_ranks(3, {},
                         [&](Communicator& comm) {
                           try {
                             if (comm.rank() == 2) comm.abort(4);
                             comm.barrier();
                           } catch (const CommError&) {
                             ++ended;
                             throw;
                           }
                         }),
               CommError);
  EXPECT_EQ(ended, 3);
}

TEST(ThreadCommunicator, TheFirstCauseIsReported) {
  EXPECT_THROW(run_ranks(2, {},
                         [&](Communicator& comm) {
                           if (comm.rank() == 1) throw InputError("the cause");
                           comm.barrier();
                         }),
               InputError);
}

TEST(ThreadCommunicator, MessagesOfUnequalSizesAreRefused) {
  EXPECT_THROW(run_ranks(2, {},
                         [&](Communicator& comm) {
                           std::vector<std::byte> data(comm.rank() == 0 ? 4 : 5);
                           auto r = comm.rank() == 0 ? comm.send(data, 1, 0) : comm.receive(data, 0, 0);
                           while (!r->test()) comm.poll();
                         }),
               CommError);
}

}  // namespace
}  // namespace lockstep
