// The watchdog of the program itself: ranks that are stopped, killed or never come, on one host and on two.

#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <signal.h>
#include <thread>
#include <unistd.h>

#include "support/hang_report.h"

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

constexpr int timeout_s = 5;
/// What mpirun, a busy machine and the turns of the watchdogs may take beyond it.
constexpr double grace_s = 30;

class StoppedRun : public testing::Test {
 protected:
  StoppedRun() { write_file_bytes(config, small_config()); }

  std::vector<std::string> program(const std::string& dir) const {
    return {LOCKSTEP_PROGRAM,    "train",      "--config",           config,
            "--run.dir",         folder / dir, "--train.epochs",     "1000000",
            "--log.every_steps", "10",         "--watchdog.timeout", std::to_string(timeout_s)};
  }
  std::vector<pid_t> pids_of(Process& job, int ranks, const std::string& dir) const {
    return pids_once_training(job, ranks, folder / dir);
  }
  void expect_report(const ProcessResult& result, const std::vector<pid_t>& pids, int victim,
                     double seconds) {
    EXPECT_EQ(result.exit_code, 4) << result.describe();
    EXPECT_EQ(count(result.err, "nothing has moved"), 1) << result.err;
    const std::string summary = first_line_with(result.err, "nothing has moved");
    EXPECT_EQ(named_ranks(summary), std::set<int>{victim}) << result.err;
    EXPECT_NE(summary.find("pid " + std::to_string(pids[static_cast<std::size_t>(victim)])),
              std::string::npos)
        << summary;
    EXPECT_LT(seconds, timeout_s + grace_s);
    for (const pid_t pid : pids) EXPECT_TRUE(ends_soon(pid)) << pid << " lives on";
  }

  TempDir folder;
  const std::string config = folder / "small.ini";
};

TEST_F(StoppedRun, AnyRankIsNamedAndTheJobEndsWithFour) {
  for (const auto& [ranks, victim] : {std::pair(2, 0), {2, 1}, {3, 0}, {3, 2}, {4, 0}, {4, 2}}) {
    const std::string dir = std::to_string(ranks) + "-" + std::to_string(victim);
    SCOPED_TRACE(dir);
    Process job(mpirun_argv(ranks, program(dir)), with_mpirun_env({.timeout_s = 120}));
    const std::vector<pid_t> pids = pids_of(job, ranks, dir);
    ASSERT_FALSE(pids.empty()) << job.so_far();
    const auto stopped = std::chrono::steady_clock::now();
    ASSERT_EQ(kill(static_cast<pid_t>(pids[static_cast<std::size_t>(victim)]), SIGSTOP), 0);
    const ProcessResult result = job.wait();
    const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - stopped).count();
    expect_report(result, pids, victim, took);
    EXPECT_GT(took, timeout_s - 1);
    std::ifstream file(folder / dir + "/hang.report.txt");
    const std::string report{std::istreambuf_iterator<char>(file), {}};
    EXPECT_EQ(count(report, "nothing has moved"), 1) << report;
    EXPECT_EQ(count(report, "flight recorder of rank "), ranks) << report;
    if (victim != 0) {
      EXPECT_FALSE(fs::exists(folder / dir + "/lease.json")) << "the next start would wait for it";
    }
    if (testing::Test::HasFailure()) return;
  }
}

TEST_F(StoppedRun, ARankThatNeverComesIsNamed) {
  const std::string script = folder / "late.sh";
  write_file_bytes(
      script,
      "#!/bin/sh\nif [ \"$OMPI_COMM_WORLD_RANK\" = \"$1\" ]; then sleep 600; fi\nshift\nexec \"$@\"\n");
  fs::permissions(script, fs::perms::owner_all);
  for (const auto& [ranks, victim] : {std::pair(2, 0), {3, 1}, {4, 3}}) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks, victim " + std::to_string(victim));
    std::vector<std::string> argv = {script, std::to_string(victim)};
    for (const std::string& word : program("never")) argv.push_back(word);
    const ProcessResult result = run_mpi(ranks, argv, {.timeout_s = 120});
    EXPECT_EQ(result.exit_code, 4) << result.describe();
    EXPECT_EQ(count(result.err, "nothing has moved"), 1) << result.err;
    const std::string summary = first_line_with(result.err, "nothing has moved");
    EXPECT_EQ(named_ranks(summary), std::set<int>{victim}) << result.err;
    EXPECT_NE(summary.find("has not started"), std::string::npos) << summary;
    EXPECT_NE(summary.find("late.sh"), std::string::npos) << summary;
    EXPECT_LT(result.seconds, timeout_s + grace_s);
  }
}

TEST_F(StoppedRun, WhenAPeerIsKilledTheOthersSayALineEachThatNamesIt) {
  Process job(mpirun_argv(3, program("killed")), with_mpirun_env({.timeout_s = 120}));
  const std::vector<pid_t> pids = pids_of(job, 3, "killed");
  ASSERT_FALSE(pids.empty()) << job.so_far();
  ASSERT_EQ(kill(static_cast<pid_t>(pids[1]), SIGKILL), 0);
  const ProcessResult result = job.wait();
  EXPECT_EQ(result.exit_code, 137) << result.describe();
  EXPECT_LE(count(result.err, "mpirun ends this rank (SIGTERM)"), 2) << result.err;
  EXPECT_GE(count(result.err, "mpirun ends this rank (SIGTERM)"), 1) << result.err;
  const std::string line = first_line_with(result.err, "mpirun ends this rank (SIGTERM)");
  std::ifstream file(folder / "killed/terminated.report.txt");
  const std::string recorded{std::istreambuf_iterator<char>(file), {}};
  EXPECT_GE(count(recorded, "SIGTERM under mpirun: flight recorder of rank "), 1) << recorded << result.err;
  EXPECT_GE(count(recorded, "    event "), 5) << recorded;
  EXPECT_NE(line.find("rank 1 on "), std::string::npos) << line;
  EXPECT_NE(line.find("pid " + std::to_string(pids[1]) + " is gone"), std::string::npos) << line;
  EXPECT_NE(line.find("last here: "), std::string::npos) << line;
}

TEST_F(StoppedRun, WithTheWatchdogOffNothingEndsTheJob) {
  std::vector<std::string> argv = program("off");
  argv.back() = "0";
  Process job(mpirun_argv(2, argv), with_mpirun_env({.timeout_s = 120}));
  const std::vector<pid_t> pids = pids_of(job, 2, "off");
  ASSERT_FALSE(pids.empty()) << job.so_far();
  ASSERT_EQ(kill(static_cast<pid_t>(pids[1]), SIGSTOP), 0);
  std::this_thread::sleep_for(std::chrono::seconds(timeout_s + 3));
  EXPECT_EQ(kill(static_cast<pid_t>(pids[0]), 0), 0) << "the job has ended";
  ASSERT_EQ(kill(static_cast<pid_t>(pids[1]), SIGCONT), 0);
  ASSERT_EQ(kill(static_cast<pid_t>(pids[0]), SIGKILL), 0);
  job.wait();
}

/// Two hosts for the life of a test, with names of this process's own.
class StoppedHosts : public StoppedRun {
 protected:
  StoppedHosts() {
    const ProcessResult up = run_process({scripts + "up.sh", name});
    stand = up.exit_code == 0;
    reason = "two network namespaces cannot be made (needs root and iproute2): " + up.err;
  }
  ~StoppedHosts() override {
    if (stand) run_process({scripts + "down.sh", name});
  }
  std::vector<std::string> argv(const std::vector<std::string>& options, const std::string& dir) const {
    std::vector<std::string> all = {scripts + "mpirun.sh", name};
    all.insert(all.end(), options.begin(), options.end());
    for (const std::string& word : program(dir)) all.push_back(word);
    return all;
  }
  /// The watchdogs of two hosts hear of each other twice a second; of what is lost in the first moments they
  /// know little.
  static void let_hosts_meet() { std::this_thread::sleep_for(std::chrono::seconds(6)); }
  const std::string scripts = std::string(LOCKSTEP_SOURCE_DIR) + "/tests/netns/";
  const std::string name = "lockstep-" + std::to_string(getpid());
  bool stand = false;
  std::string reason;
};

TEST_F(StoppedHosts, ARankOfTheOtherHostIsNamed) {
  if (!stand) LOCKSTEP_SKIP_WITHOUT("netns", reason);
  for (const auto& [ranks, victim] : {std::pair(4, 3), {4, 0}, {2, 1}}) {
    const std::string dir = std::to_string(ranks) + "-" + std::to_string(victim);
    SCOPED_TRACE(dir);
    Process job(argv({"-n", std::to_string(ranks), "--map-by", "node"}, dir), {.timeout_s = 120});
    const std::vector<pid_t> pids = pids_of(job, ranks, dir);
    ASSERT_FALSE(pids.empty()) << job.so_far();
    let_hosts_meet();
    const auto stopped = std::chrono::steady_clock::now();
    ASSERT_EQ(kill(static_cast<pid_t>(pids[static_cast<std::size_t>(victim)]), SIGSTOP), 0);
    const ProcessResult result = job.wait();
    expect_report(result, pids, victim,
                  std::chrono::duration<double>(std::chrono::steady_clock::now() - stopped).count());
    const std::string summary = first_line_with(result.err, "nothing has moved");
    EXPECT_NE(summary.find("on " + name + (victim >= ranks / 2 ? "-b" : "-a")), std::string::npos) << summary;
    if (testing::Test::HasFailure()) return;
  }
}

TEST_F(StoppedHosts, WhenTheLinkIsCutEachSideReportsTheOtherAndEnds) {
  if (!stand) LOCKSTEP_SKIP_WITHOUT("netns", reason);
  Process job(argv({"-n", "4", "--map-by", "node", "--mca", "oob_tcp_keepalive_time", "5", "--mca",
                    "oob_tcp_keepalive_intvl", "2", "--mca", "oob_tcp_keepalive_probes", "3"},
                   "cut"),
              {.timeout_s = 120});
  const std::vector<pid_t> pids = pids_of(job, 4, "cut");
  ASSERT_FALSE(pids.empty()) << job.so_far();
  let_hosts_meet();
  ASSERT_EQ(run_process({"sh", "-c",
                         "for i in $(ip netns exec " + name +
                             "-a ls /sys/class/net | grep -v lo); do ip netns exec " + name +
                             "-a ip link set $i down; done"})
                .exit_code,
            0);
  const auto cut = std::chrono::steady_clock::now();
  for (const pid_t pid : pids) EXPECT_TRUE(ends_soon(pid)) << pid << " lives on";
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - cut).count(),
            timeout_s + grace_s);
  const ProcessResult result = job.wait();
  EXPECT_FALSE(result.timed_out) << "mpirun waits on";
  EXPECT_NE(result.exit_code, 0);
  std::ifstream file(folder / "cut/hang.report.txt");
  const std::string report{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(count(report, "nothing has moved"), 2) << report << result.describe();
  std::set<std::set<int>> blamed;
  std::istringstream in(report);
  for (std::string line; std::getline(in, line);)
    if (line.find("nothing has moved") != std::string::npos) blamed.insert(named_ranks(line));
  EXPECT_EQ(blamed, (std::set<std::set<int>>{{0, 1}, {2, 3}})) << report;
}

}  // namespace
}  // namespace lockstep::test
