// The loss of one of two hosts, by cutting the link between them.

#include "support/two_hosts.h"

#include "launch_support.h"

namespace lockstep::test {
namespace {

class LostHost : public LaunchTest {
 protected:
  std::vector<std::string> job(const TwoHosts& hosts, std::int64_t steps) const {
    return hosts.on_first(
        launch({"--host", "10.77.0.1:2,10.77.0.2:1", "--backoff", "0", "--check-timeout", "4"},
               train("run", steps)));
  }
  /// The processes of the run whose parent is, or is not, `parent`.
  std::vector<int> ranks_below(int parent, bool below) const {
    std::vector<int> found;
    for (const int pid : ranks_of("run")) {
      std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
      std::string text;
      std::getline(stat, text);
      std::istringstream after(text.substr(text.rfind(')') + 1));
      std::string state;
      int its_parent = 0;
      after >> state >> its_parent;
      if ((its_parent == parent) == below) found.push_back(pid);
    }
    return found;
  }
};

TEST_F(LostHost, TheJobEndsInTimeAndGoesOnOnTheOtherWhileTheIsolatedRankStillRuns) {
  const TwoHosts hosts;
  if (!hosts.stand()) LOCKSTEP_SKIP_WITHOUT("netns", hosts.reason());
  constexpr std::int64_t steps = 8000;
  const std::string want = undisturbed(steps);
  Process running(job(hosts, steps), environment(400));
  ASSERT_TRUE(becomes_so(90, [&] { return newest_step(folder / "run") >= 25; })) << running.out();
  const std::vector<int> first = ranks_of("run");
  ASSERT_EQ(first.size(), 3u);
  const std::vector<int> isolated = ranks_below(mpirun_of("run"), false);
  ASSERT_EQ(isolated.size(), 1u);
  // Nobody on the isolated host ends its rank: the daemon there is stopped, too.
  std::vector<int> daemons;
  {
    std::ifstream stat("/proc/" + std::to_string(isolated[0]) + "/stat");
    std::string text;
    std::getline(stat, text);
    std::istringstream after(text.substr(text.rfind(')') + 1));
    std::string state;
    int parent = 0;
    after >> state >> parent;
    daemons.push_back(parent);
  }
  ASSERT_GT(daemons[0], 1);
  struct Ended {
    std::vector<int> pids;
    ~Ended() {
      for (const int pid : pids) kill(pid, SIGKILL);
    }
  };
  const Ended at_the_end{{isolated[0], daemons[0]}};
  ASSERT_EQ(kill(daemons[0], SIGSTOP), 0);
  const auto cut = std::chrono::steady_clock::now();
  hosts.cut();
  // Stated: about 10 s from the keep-alive; then the check of the hosts.
  const std::set<int> before(first.begin(), first.end());
  ASSERT_TRUE(becomes_so(120, [&] {
    const std::vector<int> now = ranks_of("run");
    return std::count_if(now.begin(), now.end(), [&](int p) { return before.count(p) == 0; }) == 2;
  })) << running.out();
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - cut).count(), 40.0);
  EXPECT_TRUE(is_alive(isolated[0]));
  for (const int pid : first) {
    if (pid != isolated[0]) {
      EXPECT_FALSE(is_alive(pid));
    }
  }
  const ProcessResult result = running.wait();
  ASSERT_EQ(result.exit_code, 0) << told(result);
  EXPECT_TRUE(is_alive(isolated[0])) << "the isolated rank did not outlive the job";
  EXPECT_EQ(count(result.err, "host 10.77.0.2 is left out: it does not answer"), 1) << told(result);
  EXPECT_EQ(count(result.err, "start 2: 2 ranks on 10.77.0.1 (2), --resume"), 1) << told(result);
  EXPECT_EQ(digest(folder / "run", true), want);

  // The isolated host wakes and hears of its peers' end; nothing of the run changes.
  kill(daemons[0], SIGCONT);
  hosts.join();
  sleep_s(2);
  EXPECT_EQ(digest(folder / "run", true), want);
}

TEST_F(LostHost, AHostThatCameBackIsUsedAgain) {
  const TwoHosts hosts;
  if (!hosts.stand()) LOCKSTEP_SKIP_WITHOUT("netns", hosts.reason());
  constexpr std::int64_t steps = 5000;
  const std::string want = undisturbed(steps);
  hosts.cut();
  Process running(job(hosts, steps), environment(400));
  ASSERT_TRUE(becomes_so(90, [&] { return newest_step(folder / "run") >= 25; })) << running.out();
  const std::vector<int> first = ranks_of("run");
  EXPECT_EQ(first.size(), 2u);
  hosts.join();
  ASSERT_EQ(kill(first.at(0), SIGKILL), 0);
  const ProcessResult result = running.wait();
  ASSERT_EQ(result.exit_code, 0) << told(result);
  EXPECT_EQ(count(result.err, "start 1: 2 ranks on 10.77.0.1 (2)"), 1) << told(result);
  EXPECT_EQ(count(result.err, "start 2: 3 ranks on 10.77.0.1 (2), 10.77.0.2 (1), --resume"), 1)
      << told(result);
  EXPECT_EQ(digest(folder / "run", true), want);
}

}  // namespace
}  // namespace lockstep::test
