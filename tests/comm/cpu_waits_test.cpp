#include "watch/cpu_waits.h"

#include <ctime>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>

#include "support/temp_dir.h"
#include "watch/node_watch.h"

namespace lockstep::test {
namespace {

/// Processes as /proc would show them.
class CpuWaitsTest : public testing::Test {
 protected:
  void thread(long pid, long id, char state, std::uint64_t ran_ns) {
    const std::string at = folder / (std::to_string(pid) + "/task/" + std::to_string(id));
    std::filesystem::create_directories(at);
    std::ofstream(at + "/stat") << id << " (a) S (b) " << state << " 1 1 1 0 -1 4194304 1 0 0 0 "
                                << user_ticks << " 3 0 0 20 " << nice << " 1\n";
    std::ofstream(at + "/schedstat") << ran_ns << " 812 4\n";
  }
  TempDir folder;
  int user_ticks = 5;
  int nice = 0;
};

TEST_F(CpuWaitsTest, WhoIsReadyAndDoesNotRunWaits) {
  CpuWaits waits{folder / ""};
  thread(7, 7, 'S', 100);
  thread(7, 8, 'R', 200);
  EXPECT_FALSE(waits.look(7)) << "once proves nothing";
  EXPECT_TRUE(waits.look(7));
  thread(7, 8, 'R', 201);
  EXPECT_FALSE(waits.look(7)) << "it has run";
  EXPECT_TRUE(waits.look(7));
  user_ticks = 6;
  thread(7, 8, 'R', 201);
  EXPECT_FALSE(waits.look(7)) << "it has run by the other count";
  thread(7, 8, 'S', 201);
  EXPECT_FALSE(waits.look(7));
  thread(7, 8, 'R', 201);
  EXPECT_FALSE(waits.look(7)) << "it has slept meanwhile";
  EXPECT_TRUE(waits.look(7));
  waits.forget(7);
  EXPECT_FALSE(waits.look(7));
}

TEST_F(CpuWaitsTest, StoppedAndSleepingOnesDoNot) {
  CpuWaits waits{folder / ""};
  for (const char state : {'T', 't', 'S', 'D', 'Z'}) {
    thread(7, 7, state, 100);
    EXPECT_FALSE(waits.look(7)) << state;
    EXPECT_FALSE(waits.look(7)) << state;
  }
}

TEST_F(CpuWaitsTest, NorDoesWhoLeavesTheCpuToTheOtherThreads) {
  CpuWaits waits{folder / ""};
  nice = 5;  // a job that was started with a low priority
  thread(7, 7, 'S', 100);
  nice = 15;
  thread(7, 8, 'R', 100);
  EXPECT_FALSE(waits.look(7));
  EXPECT_FALSE(waits.look(7));
  nice = 5;
  thread(7, 9, 'R', 100);
  EXPECT_FALSE(waits.look(7));
  EXPECT_TRUE(waits.look(7));
}

TEST_F(CpuWaitsTest, WhatTheSystemDoesNotTellIsNoWait) {
  CpuWaits waits{folder / ""};
  EXPECT_FALSE(waits.look(7));
  EXPECT_FALSE(waits.look(7));
  thread(7, 7, 'R', 100);
  std::filesystem::remove(folder / "7/task/7/schedstat");
  EXPECT_FALSE(waits.look(7));
  EXPECT_FALSE(waits.look(7));
  std::ofstream(folder / "7/task/7/stat") << "7";
  EXPECT_FALSE(waits.look(7));
}

TEST_F(CpuWaitsTest, TheRealSystemTellsOfThisProcess) {
  CpuWaits waits;
  waits.look(getpid());
  for (const std::clock_t begin = std::clock(); std::clock() - begin < CLOCKS_PER_SEC / 20;) {
  }
  EXPECT_FALSE(waits.look(getpid())) << "this thread has run between";
}

TEST_F(CpuWaitsTest, ATenthOfTheTimeCounts) {
  NodeFile file{NodePlace{}};
  NodeWatch watch(file, NodePlace{}, folder / "");
  std::int64_t now = 1'000'000'000;
  const auto pass = [&](double seconds) {
    for (int i = 0; i < static_cast<int>(seconds * 10); ++i) watch.look(now += 100'000'000, 20);
  };
  const auto quiet = [&] { return watch.views(now)[0].quiet; };
  thread(getpid(), getpid(), 'S', 100);
  pass(10);
  EXPECT_NEAR(quiet(), 9.9, 0.3);
  // Whom nobody would judge yet is not looked at.
  thread(getpid(), getpid(), 'R', 100);
  pass(20);
  EXPECT_NEAR(quiet(), 12, 0.5);
  thread(getpid(), getpid(), 'S', 101);
  pass(10);
  EXPECT_NEAR(quiet(), 22, 0.5);
  FlightRecorder(file.mine()).tick();
  pass(0.1);
  EXPECT_EQ(quiet(), 0);
}

}  // namespace
}  // namespace lockstep::test
