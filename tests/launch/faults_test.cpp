// Faults of a real job under lockstep-run: each ends in the digest of the undisturbed run.

#include <random>

#include "launch_support.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class Faults : public LaunchTest {};

/// Ends processes that a failed test would leave.
struct Reaper {
  std::vector<int> pids;
  ~Reaper() {
    for (const int pid : pids)
      if (is_alive(pid)) kill(pid, SIGKILL);
  }
};

TEST_F(Faults, ARandomRankKilledAtARandomMomentTenTimes) {
  constexpr int kills = 10;
  constexpr std::int64_t steps = 6000;
  const unsigned seed = 20261122;
  std::mt19937 random(seed);
  SCOPED_TRACE("seed " + std::to_string(seed));
  const std::string want = undisturbed(steps);
  Process job(launch({"-n", "3", "--backoff", "0", "--max-restarts", "20"}, train("run", steps)),
              environment(420));
  std::set<int> seen;
  for (int k = 0; k < kills; ++k) {
    ASSERT_TRUE(ranks_stand("run", 3, seen)) << "after " << k << " kills\n" << job.out();
    const std::vector<int> ranks = ranks_of("run");
    seen.insert(ranks.begin(), ranks.end());
    // From the moment a rank exists: in MPI_Init, while resuming, in a step, while saving.
    sleep_s(std::uniform_real_distribution<double>(0.0, 1.2)(random));
    ASSERT_EQ(kill(ranks[random() % ranks.size()], SIGKILL), 0)
        << "the run ended before kill " << k + 1 << ": give it more steps";
  }
  const ProcessResult result = job.wait();
  ASSERT_EQ(result.exit_code, 0) << told(result);
  EXPECT_EQ(count(result.err, "): lost (4); restart"), kills) << told(result);
  EXPECT_EQ(digest(folder / "run", true), want);
  EXPECT_EQ(leftovers(), std::vector<std::string>());
}

TEST_F(Faults, MpirunKilledWithAStoppedRankLeavesNoOrphansAndNoFiles) {
  constexpr std::int64_t steps = 4000;
  const std::string want = undisturbed(steps);
  const std::set<std::string> before = segments();
  Process job(launch({"-n", "3", "--backoff", "0"}, train("run", steps)), environment(240));
  ASSERT_TRUE(becomes_so(60, [&] { return newest_step(folder / "run") >= 25; }));
  const std::vector<int> first = ranks_of("run");
  ASSERT_EQ(first.size(), 3u);
  const Reaper reaper{first};
  // A stopped process does not notice that its mpirun is gone.
  ASSERT_EQ(kill(first[1], SIGSTOP), 0);
  const int mpirun = mpirun_of("run");
  ASSERT_GT(mpirun, 0);
  ASSERT_EQ(kill(mpirun, SIGKILL), 0);
  ASSERT_TRUE(becomes_so(60, [&] { return fs::exists(folder / "run/checkpoints/gen-000002"); }));
  for (const int pid : first) EXPECT_FALSE(is_alive(pid)) << "an orphan lives beside the restarted job";
  const ProcessResult result = job.wait();
  ASSERT_EQ(result.exit_code, 0) << told(result);
  EXPECT_EQ(count(result.err, "mpirun ended with 137"), 1) << told(result);
  EXPECT_EQ(digest(folder / "run", true), want);
  EXPECT_EQ(leftovers(), std::vector<std::string>());
  std::vector<std::string> more;
  for (const std::string& s : segments())
    if (before.count(s) == 0) more.push_back(s);
  // Other tests run at the same time: theirs go by themselves.
  EXPECT_TRUE(becomes_so(20, [&] {
    return std::none_of(more.begin(), more.end(), [](const std::string& s) { return fs::exists(s); });
  })) << more[0];
}

TEST_F(Faults, AStoppedMpirunWhoseRanksAreGoneIsKilledAndTheJobStartsAgain) {
  constexpr std::int64_t steps = 6000;
  const std::string want = undisturbed(steps);
  Process job(launch({"-n", "2", "--backoff", "0"}, train("run", steps, {"--watchdog.timeout", "3"})),
              environment(240));
  ASSERT_TRUE(becomes_so(60, [&] { return newest_step(folder / "run") >= 25; }));
  const std::vector<int> ranks = ranks_of("run");
  ASSERT_EQ(ranks.size(), 2u);
  const int mpirun = mpirun_of("run");
  ASSERT_GT(mpirun, 0);
  const Reaper reaper{{mpirun, ranks[0], ranks[1]}};
  ASSERT_EQ(kill(mpirun, SIGSTOP), 0);
  ASSERT_EQ(kill(ranks[1], SIGKILL), 0);
  const ProcessResult result = job.wait();
  ASSERT_EQ(result.exit_code, 0) << told(result);
  EXPECT_EQ(count(result.err, "mpirun was killed: it was stopped for"), 1) << told(result);
  EXPECT_EQ(digest(folder / "run", true), want);
  EXPECT_EQ(leftovers(), std::vector<std::string>());
}

TEST_F(Faults, ARunLostBeforeItsFirstCheckpointBeginsAnew) {
  constexpr std::int64_t steps = 1500;
  const std::string want = undisturbed(steps);
  Process job(launch({"-n", "2", "--backoff", "0"}, train("run", steps, {}, 1400)), environment(240));
  ASSERT_TRUE(becomes_so(60, [&] { return fs::exists(folder / "run/metrics.jsonl"); }));
  const std::vector<int> ranks = ranks_of("run");
  ASSERT_EQ(ranks.size(), 2u);
  ASSERT_EQ(kill(ranks[0], SIGKILL), 0);
  const ProcessResult result = job.wait();
  ASSERT_EQ(result.exit_code, 0) << told(result);
  EXPECT_EQ(count(result.err, "start 2: 2 ranks on this host, --overwrite"), 1) << told(result);
  EXPECT_EQ(digest(folder / "run", true), want);
}

TEST_F(Faults, AKilledLockstepRunIsFollowedByOneThatEndsItsJobAndGoesOn) {
  constexpr std::int64_t steps = 6000;
  const std::string want = undisturbed(steps);
  const auto command = launch({"-n", "2", "--backoff", "0"}, train("run", steps));
  Process first(command, environment(240));
  ASSERT_TRUE(becomes_so(60, [&] { return newest_step(folder / "run") >= 25; }));
  const std::vector<int> ranks = ranks_of("run");
  const int mpirun = mpirun_of("run");
  const Reaper reaper{{mpirun, ranks[0], ranks[1]}};

  // While it lives, a second one on the same run directory is refused.
  const ProcessResult second = run_process(command, environment(60));
  EXPECT_EQ(second.exit_code, 2) << told(second);
  EXPECT_EQ(count(second.err, "another lockstep-run"), 1) << told(second);

  first.send_signal(SIGKILL);
  EXPECT_EQ(first.wait().signal, SIGKILL);
  const ProcessResult result = run_process(command, environment(240));
  ASSERT_EQ(result.exit_code, 0) << told(result);
  EXPECT_EQ(count(result.err, "which an earlier lockstep-run left unfinished"), 1) << told(result);
  EXPECT_FALSE(is_alive(mpirun));
  for (const int pid : ranks) EXPECT_FALSE(is_alive(pid));
  EXPECT_EQ(digest(folder / "run", true), want);
  EXPECT_EQ(leftovers(), std::vector<std::string>());
}

TEST_F(Faults, AnInterruptEndsTheJobAndTheSameCommandGoesOn) {
  constexpr std::int64_t steps = 5000;
  const std::string want = undisturbed(steps);
  const auto command = launch({"-n", "2", "--backoff", "0"}, train("run", steps));
  Process first(command, environment(240));
  ASSERT_TRUE(becomes_so(60, [&] { return newest_step(folder / "run") >= 25; }));
  const std::vector<int> ranks = ranks_of("run");
  first.send_signal(SIGINT);
  const ProcessResult ended = first.wait();
  EXPECT_EQ(ended.exit_code, 130) << told(ended);
  for (const int pid : ranks) EXPECT_FALSE(is_alive(pid));
  EXPECT_FALSE(fs::exists(folder / "run/model.safetensors"));
  EXPECT_EQ(leftovers(), std::vector<std::string>());
  const ProcessResult result = run_process(command, environment(240));
  ASSERT_EQ(result.exit_code, 0) << told(result);
  EXPECT_EQ(count(result.err, "--resume"), 1) << told(result);
  EXPECT_EQ(digest(folder / "run", true), want);
}

TEST_F(Faults, ARequestToEndSavesACheckpointAndEndsWith75OnAnyRankCountAfterwards) {
  constexpr std::int64_t steps = 5000;
  const std::string want = undisturbed(steps);
  int ranks = 2;
  for (const int request : {SIGTERM, SIGUSR1, SIGHUP}) {
    SCOPED_TRACE("signal " + std::to_string(request));
    const std::int64_t before = newest_step(folder / "run");
    // No checkpoint on schedule: what is saved is saved on request.
    Process job(launch({"-n", std::to_string(ranks++), "--grace", "60"}, train("run", steps, {}, 100000)),
                environment(240));
    ASSERT_TRUE(becomes_so(60, [&] {
      std::ifstream in(folder / "run/metrics.jsonl");
      std::string line, last;
      while (std::getline(in, line)) last = line;
      return !last.empty() && nlohmann::json::accept(last) &&
             nlohmann::json::parse(last)["step"].get<std::int64_t>() > std::max<std::int64_t>(before, 0) + 20;
    }));
    job.send_signal(request);
    const ProcessResult result = job.wait();
    ASSERT_EQ(result.exit_code, 75) << told(result);
    EXPECT_EQ(count(result.err, "preempted: the checkpoint of step"), 1) << told(result);
    EXPECT_GT(newest_step(folder / "run"), before);
    EXPECT_TRUE(ranks_of("run").empty());
  }
  const ProcessResult result =
      run_process(launch({"-n", "1"}, train("run", steps, {}, 100000)), environment(240));
  ASSERT_EQ(result.exit_code, 0) << told(result);
  EXPECT_EQ(digest(folder / "run", true), want);
}

TEST_F(Faults, AStoppedRankIsNoticedAndTheJobStartsAgain) {
  constexpr std::int64_t steps = 6000;
  const std::string want = undisturbed(steps);
  Process job(launch({"-n", "3", "--backoff", "0"}, train("run", steps, {"--watchdog.timeout", "3"})),
              environment(240));
  ASSERT_TRUE(becomes_so(60, [&] { return newest_step(folder / "run") >= 25; }));
  const std::vector<int> ranks = ranks_of("run");
  ASSERT_EQ(ranks.size(), 3u);
  const Reaper reaper{ranks};
  ASSERT_EQ(kill(ranks[0], SIGSTOP), 0);
  const ProcessResult result = job.wait();
  ASSERT_EQ(result.exit_code, 0) << told(result);
  EXPECT_EQ(count(result.err, "lost (4); restart 1"), 1) << told(result);
  for (const int pid : ranks) EXPECT_FALSE(is_alive(pid));
  EXPECT_EQ(digest(folder / "run", true), want);
}

}  // namespace
}  // namespace lockstep::test
