// Two jobs on one run directory: the one that started last has it, whatever the other one still does. Who is
// let in at all while another job is at the run stands in lease_test.cpp.

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <signal.h>
#include <thread>

#include "support/turns.h"

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

/// A run of some seconds with a checkpoint every 20 steps.
std::string long_config() {
  return R"(
[model]
layers = dense:64 relu dense:3
[data]
format = synthetic
samples = 640
shape = 32
classes = 3
[train]
global_batch = 32
slices = 4
steps = 8000
[optimizer]
name = adam
lr = 0.001
[checkpoint]
every_steps = 20
keep = 2
)";
}

class Fencing : public testing::Test {
 protected:
  void SetUp() override { write_file_bytes(config, long_config()); }
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> args = {LOCKSTEP_PROGRAM, "train",      "--config",         config,
                                     "--run.dir",      folder / dir, "--device.threads", "1"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  static ProcessOptions long_enough() {
    ProcessOptions options = with_mpirun_env();
    options.timeout_s = 200;
    options.env["LOCKSTEP_LEASE_PERIOD"] = "0.3";
    return options;
  }
  /// Goes on with the run, also where a job is at it.
  std::vector<std::string> take_over(const std::string& dir) const {
    std::vector<std::string> args = resume(dir);
    args.emplace_back("--take-over");
    return args;
  }
  std::vector<std::string> resume(const std::string& dir) const {
    return {LOCKSTEP_PROGRAM, "train", "--resume", "--run.dir", folder / dir, "--device.threads", "1"};
  }
  std::string generation(const std::string& dir, int n) const {
    return folder / dir + "/checkpoints/gen-00000" + std::to_string(n);
  }
  /// Waits until a generation holds a whole checkpoint.
  bool wait_for_checkpoint(const std::string& directory) const {
    for (int i = 0; i < 3000; ++i) {
      std::error_code ignored;
      for (const auto& entry : fs::directory_iterator(directory, ignored))
        if (entry.path().filename().string().starts_with("step-")) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }
  static std::map<std::string, std::string> contents(const std::string& path) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(path))
      if (entry.is_regular_file()) files[entry.path().string()] = read_file_bytes(entry.path());
    return files;
  }
  static void expect_superseded(const ProcessResult& result) {
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    EXPECT_EQ(count(result.err, "another job has taken over the run"), 1) << result.describe();
    EXPECT_EQ(count(result.err, "generation 2 and this job generation 1"), 1) << result.describe();
  }

  TempDir folder;
  const std::string config = folder / "long.ini";
};

TEST_F(Fencing, OfTwoJobsAtOnceTheLaterOneHasTheRun) {
  ASSERT_EQ(run_process(train("whole", {"--checkpoint.every_steps", "8000"}), long_enough()).exit_code, 0);
  Process first(train("run"), long_enough());
  ASSERT_TRUE(wait_for_checkpoint(generation("run", 1)));
  const ProcessResult second = run_process(take_over("run"), long_enough());
  const ProcessResult end_of_first = first.wait();
  ASSERT_EQ(second.exit_code, 0) << second.describe();
  expect_superseded(end_of_first);
  EXPECT_EQ(digest(folder / "run", true), digest(folder / "whole", true));
  EXPECT_EQ(digest(folder / "run"), digest(folder / "whole"));
  // Nothing is left of the first one's; a third job goes on from the second one's.
  EXPECT_TRUE(fs::is_empty(generation("run", 1)));
  std::vector<std::string> further = resume("run");
  further.insert(further.end(), {"--train.steps", "8040"});
  const ProcessResult third = run_process(further, long_enough());
  EXPECT_EQ(third.exit_code, 0) << third.describe();
  EXPECT_NE(third.err.find("(generation 2, step 8000)"), std::string::npos) << third.err;
}

TEST_F(Fencing, AResumeThatIsRefusedLeavesTheRunToTheJobThatIsAtIt) {
  for (const int ranks : {1, 2}) {
    const std::string dir = "refused" + std::to_string(ranks);
    Process first(train(dir, {"--train.steps", "2000"}), long_enough());
    ASSERT_TRUE(wait_for_checkpoint(generation(dir, 1)));
    // Found out only when the checkpoint is read.
    std::vector<std::string> argv = resume(dir);
    argv.insert(argv.end(), {"--train.slices", "2"});
    const ProcessResult refused = ranks == 1 ? run_process(argv) : run_mpi(ranks, argv);
    EXPECT_EQ(refused.exit_code, 2) << refused.describe();
    EXPECT_EQ(count(refused.err, "--allow-slices-change"), 1) << refused.describe();
    const ProcessResult result = first.wait();
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_FALSE(fs::exists(generation(dir, 2)));
    EXPECT_TRUE(fs::exists(folder / dir + "/model.safetensors"));
  }
}

#ifdef FAULT_INJECTION

/// A job that freezes at every sixth of its calls (others with each turn: support/turns.h) by which it
/// changes the run directory, while another one takes the run to its end, and then goes on.
class FrozenJob : public Fencing {
 protected:
  void SetUp() override {
    write_file_bytes(config, R"(
[model]
layers = dense:16 relu dense:3
[data]
format = synthetic
samples = 160
shape = 8
classes = 3
validation_fraction = 0.2
[train]
global_batch = 16
slices = 4
steps = 20
[optimizer]
name = adam
lr = 0.01
[checkpoint]
every_steps = 4
keep = 2
[log]
every_steps = 2
)");
    ASSERT_EQ(run_process(train("whole")).exit_code, 0);
    wanted_lines = train_lines("whole");
  }
  std::vector<std::string> train_lines(const std::string& dir) const {
    std::ifstream file(folder / dir + "/metrics.jsonl");
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);)
      if (line.find("\"kind\":\"train\"") != std::string::npos)
        lines.push_back(line.substr(0, line.find("\"lr\"")));
    return lines;
  }
  ProcessOptions spoiled(const std::string& dir, int at) const {
    ProcessOptions options;
    options.timeout_s = 60;
    options.env = {{"LD_PRELOAD", FAULT_INJECTION},
                   {"LOCKSTEP_FAULT_DIR", folder / dir},
                   {"LOCKSTEP_FAULT_AT", std::to_string(at)},
                   {"LOCKSTEP_FAULT_KIND", "stop"},
                   {"LOCKSTEP_LEASE_PERIOD", "0.05"}};
    if (at == 0) options.env["LOCKSTEP_FAULT_LOG"] = folder / "calls.txt";
    return options;
  }
  /// Until the process is stopped; false when it ended before.
  static bool stops(Process& job) {
    for (int i = 0; i < 6000 && job.running(); ++i) {
      const std::string stat = read_file_bytes("/proc/" + std::to_string(job.pid()) + "/stat");
      const std::size_t end = stat.rfind(')');
      if (end != std::string::npos && end + 2 < stat.size() && stat[end + 2] == 'T') return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }
  /// `frozen` starts, freezes at each call in turn; `other` runs meanwhile.
  void freeze_at_each_call(const std::function<void(const std::string&)>& prepare,
                           const std::vector<std::string>& frozen_args,
                           const std::function<std::vector<std::string>(const std::string&)>& other) {
    prepare("count");
    const auto argv = [&](const std::string& dir, bool resumes) {
      std::vector<std::string> all = resumes ? resume(dir) : train(dir);
      all.insert(all.end(), frozen_args.begin(), frozen_args.end());
      return all;
    };
    const bool resumes = fs::exists(folder / "count/config.resolved.ini");
    ASSERT_EQ(run_process(argv("count", resumes), spoiled("count", 0)).exit_code, 0);
    std::ifstream log(folder / "calls.txt");
    std::vector<std::string> calls;
    for (std::string line; std::getline(log, line);) calls.push_back(line);
    ASSERT_GT(calls.size(), 20u);
    int taken = 0, frozen = 0, superseded = 0;
    for (std::size_t at = 1; at <= calls.size(); ++at) {
      if (!is_taken(at, calls.size(), 6)) continue;
      ++taken;
      const std::string& call = calls[at - 1];
      SCOPED_TRACE(call);
      // The moment between the look and the name, which docs/reliability.md tells of.
      const bool names =
          call.find(" rename") != std::string::npos && call.find("/checkpoints/") == std::string::npos;
      if (names) continue;
      const std::string dir = "at" + std::to_string(at);
      prepare(dir);
      Process first(argv(dir, resumes), spoiled(dir, static_cast<int>(at)));
      if (!stops(first)) {
        first.wait();
        continue;
      }
      ++frozen;
      const ProcessResult second = run_process(other(dir));
      ASSERT_EQ(second.exit_code, 0) << second.describe();
      const std::string config_file = read_file_bytes(folder / dir + "/config.resolved.ini");
      kill(static_cast<pid_t>(first.pid()), SIGCONT);
      const ProcessResult result = first.wait();
      EXPECT_TRUE(result.exit_code == 0 || result.exit_code == 2) << result.describe();
      superseded += result.exit_code == 2 ? 1 : 0;
      // One that froze before it had taken the run over is the later job, and has the last word on
      // train.steps.
      if (result.exit_code == 2) {
        EXPECT_EQ(read_file_bytes(folder / dir + "/config.resolved.ini"), config_file) << result.describe();
      }
      EXPECT_EQ(train_lines(dir), wanted_lines) << result.describe();
      EXPECT_EQ(digest(folder / dir), digest(folder / "whole")) << result.describe();
      EXPECT_EQ(digest(folder / dir, true), digest(folder / "whole", true)) << result.describe();
      fs::remove_all(folder / dir);
      if (HasFailure()) return;
    }
    EXPECT_GT(frozen, 6 * taken / 10);
    EXPECT_GT(superseded, 3 * taken / 10);
  }
  std::vector<std::string> wanted_lines;
};

TEST_F(FrozenJob, AResumeThatFreezesAnywhereDisplacesNothing) {
  ASSERT_EQ(run_process(train("base", {"--train.steps", "8", "--schedule.steps", "20"})).exit_code, 0);
  freeze_at_each_call(
      [&](const std::string& dir) { fs::copy(folder / "base", folder / dir, fs::copy_options::recursive); },
      {"--train.steps", "12"},
      [&](const std::string& dir) {
        std::vector<std::string> argv = resume(dir);
        argv.insert(argv.end(), {"--train.steps", "20"});
        return argv;
      });
}

#endif  // FAULT_INJECTION

TEST_F(Fencing, AJobThatWasCutOffDisplacesNothingWhenItComesBack) {
  ASSERT_EQ(run_process(train("whole", {"--checkpoint.every_steps", "8000"}), long_enough()).exit_code, 0);
  Process first(mpirun_argv(2, train("run")), long_enough());
  ASSERT_TRUE(wait_for_checkpoint(generation("run", 1)));
  // The ranks of the first job freeze where they are, as on a host whose link is cut.
  std::vector<int> pids;
  std::istringstream table(first.out());
  for (std::string line; std::getline(table, line);) {
    std::istringstream words(line);
    std::string rank, host, pid;
    if (words >> rank >> host >> pid && rank == std::to_string(pids.size()) &&
        pid.find_first_not_of("0123456789") == std::string::npos)
      pids.push_back(std::stoi(pid));
  }
  ASSERT_EQ(pids.size(), 2u) << first.out();
  for (const int pid : pids) ASSERT_EQ(kill(pid, SIGSTOP), 0);
  const ProcessResult second = run_process(mpirun_argv(3, resume("run")), long_enough());
  EXPECT_EQ(second.exit_code, 0) << second.describe();
  const auto second_one = contents(generation("run", 2));
  const std::string weights = read_file_bytes(folder / "run/model.safetensors");
  const std::string metrics = read_file_bytes(folder / "run/metrics.jsonl");
  for (const int pid : pids) kill(pid, SIGCONT);
  expect_superseded(first.wait());
  EXPECT_EQ(contents(generation("run", 2)), second_one);
  EXPECT_EQ(read_file_bytes(folder / "run/model.safetensors"), weights);
  EXPECT_EQ(read_file_bytes(folder / "run/metrics.jsonl"), metrics);
  EXPECT_EQ(digest(folder / "run", true), digest(folder / "whole", true));
}

TEST_F(Fencing, AJobThatWasCutOffDoesNotRollBackIntoItsSuccessorsRun) {
  // One row of 8,000 overflows, in step 452 of 500.
  std::string rows = "a,b,c,d,y\n";
  for (int i = 0; i < 8000; ++i)
    rows += (i == 500 ? std::string("3e38,-3e38,3e38,-3e38,") : "0." + std::to_string(i) + ",1,0.5,-1,") +
            std::to_string(i % 3) + "\n";
  write_file_bytes(folder / "rows.csv", rows);
  write_file_bytes(config, R"(
[model]
layers = dense:1024 relu dense:512 relu dense:3
[data]
format = csv
normalize = none
[train]
global_batch = 16
epochs = 1
[checkpoint]
every_steps = 100000
[guard]
nonfinite = rollback
[log]
every_steps = 1
)");
  Process first(train("run", {"--data.train", folder / "rows.csv"}), long_enough());
  const std::string metrics = folder / "run/metrics.jsonl";
  std::error_code ignored;
  for (int i = 0; i < 10000 && (!fs::exists(metrics) || fs::file_size(metrics, ignored) == 0); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  ASSERT_EQ(kill(first.pid(), SIGSTOP), 0);
  // What a successor has made: its generation, and metrics in a file of its own.
  fs::create_directory(generation("run", 2));
  const std::string lines = "{\"kind\":\"train\",\"step\":1}\n{\"kind\":\"train\",\"step\":2}\n";
  fs::remove(metrics);
  write_file_bytes(metrics, lines);
  kill(first.pid(), SIGCONT);
  const ProcessResult end = first.wait();
  expect_superseded(end);
  EXPECT_EQ(count(end.err, "The run goes back"), 1) << end.describe();
  EXPECT_EQ(read_file_bytes(metrics), lines);
}

}  // namespace
}  // namespace lockstep::test
