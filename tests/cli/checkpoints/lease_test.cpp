// The lease of a run: a start does not take a run from a job that is at it, and waits for nobody who is not.

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <signal.h>
#include <sys/stat.h>
#include <thread>
#include <tuple>

#include "cli/cli_data.h"
#include "cli/running_job.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

/// A run without an end, with a checkpoint every 20 steps.
std::string endless_config() {
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
steps = 10000000
[schedule]
steps = 8000
[optimizer]
name = adam
lr = 0.001
[checkpoint]
every_steps = 20
)";
}

class Lease : public testing::Test {
 protected:
  void SetUp() override { write_file_bytes(config, endless_config()); }
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> args = {"train",      "--config",         config, "--run.dir",
                                     folder / dir, "--device.threads", "1"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  std::vector<std::string> resume(const std::string& dir, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> args = {"train", "--resume", "--run.dir", folder / dir, "--device.threads", "1"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  static ProcessOptions with_period(const std::string& seconds) {
    ProcessOptions options;
    options.timeout_s = 200;
    options.env["LOCKSTEP_LEASE_PERIOD"] = seconds;
    options.env["OMPI_MCA_odls_base_sigkill_timeout"] = "0";
    return options;
  }
  std::string lease(const std::string& dir) const { return folder / dir + "/lease.json"; }
  nlohmann::json read_lease(const std::string& dir) const {
    return nlohmann::json::parse(read_file_bytes(lease(dir)), nullptr, false);
  }
  void edit_lease(const std::string& dir, const std::function<void(nlohmann::json&)>& edit) const {
    nlohmann::json j = read_lease(dir);
    ASSERT_TRUE(j.is_object());
    edit(j);
    fs::remove(lease(dir));
    write_file_bytes(lease(dir), j.dump());
  }
  /// Until a checkpoint of that generation is there.
  bool await_checkpoint(const std::string& dir, int generation = 1) const {
    for (int i = 0; i < 6000; ++i) {
      std::error_code ignored;
      for (const auto& entry : fs::directory_iterator(
               folder / dir + "/checkpoints/gen-00000" + std::to_string(generation), ignored))
        if (entry.path().filename().string().starts_with("step-")) return true;
      sleep_ms(10);
    }
    return false;
  }
  /// A run of 40 steps that has ended.
  void make_run(const std::string& dir) const {
    const ProcessResult result = lockstep(0, train(dir, {"--train.steps", "40"}));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
  }
  /// The run of a job that was killed, and whose lease has this period.
  void make_killed_run(const std::string& dir, const std::string& period) const {
    RunningJob job(0, train(dir), with_period(period));
    ASSERT_TRUE(await_checkpoint(dir));
    kill(job.launcher(), SIGKILL);
    EXPECT_EQ(job.wait().signal, SIGKILL);
    ASSERT_TRUE(fs::exists(lease(dir)));
  }
  /// Asks the job to save and leave, and compares what it saved with a run of as many steps that nobody
  /// disturbed.
  void expect_undisturbed(RunningJob& job, const std::string& dir) const {
    kill(job.launcher(), SIGUSR1);
    const ProcessResult result = job.wait();
    ASSERT_EQ(result.exit_code, 75) << result.describe();
    EXPECT_FALSE(fs::exists(lease(dir)));
    const std::size_t at = result.err.find("saved at step ");
    ASSERT_NE(at, std::string::npos) << result.err;
    const std::string steps = std::to_string(std::stoi(result.err.substr(at + 14)));
    ASSERT_EQ(
        lockstep(0, train("whole", {"--train.steps", steps, "--checkpoint.every_steps", "0", "--overwrite"}))
            .exit_code,
        0);
    EXPECT_EQ(digest(folder / dir, true), digest(folder / "whole", true));
  }
  std::map<std::string, std::string> contents(const std::string& dir) const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder / dir))
      if (entry.path() != lease(dir))
        files[entry.path()] = entry.is_regular_file() ? read_file_bytes(entry.path()) : "";
    return files;
  }
  TempDir folder;
  const std::string config = folder / "long.ini";
};

/// Renews a lease as its holder on another host would.
class Renewing {
 public:
  Renewing(std::string path, nlohmann::json holder)
      : path_(std::move(path)), holder_(std::move(holder)), thread_([this](const std::stop_token& stop) {
          for (int n = 1; !stop.stop_requested(); ++n) {
            holder_["renewals"] = n;
            write_file_bytes(path_ + ".new", holder_.dump());
            fs::rename(path_ + ".new", path_);
            sleep_ms(100);
          }
        }) {}

 private:
  std::string path_;
  nlohmann::json holder_;
  std::jthread thread_;
};

nlohmann::json holder_elsewhere() {
  return {{"host", "elsewhere"}, {"pid", 4321},          {"start_time", 17},
          {"boot_id", "b"},      {"pid_namespace", "p"}, {"run_id", "theirs"},
          {"slurm_job", ""},     {"period", 0.5},        {"held", 90}};
}

TEST_F(Lease, ASecondStartIsRefusedAndTheFirstGoesOnUndisturbed) {
  RunningJob first(0, train("run"), with_period("0.2"));
  ASSERT_TRUE(await_checkpoint("run"));
  const std::string who = "process " + std::to_string(first.launcher()) + " on ";
  for (const auto& args : {resume("run"), train("run", {"--overwrite"}), train("run")}) {
    expect_refusal(lockstep(0, args, with_period("2")),
                   {"is being trained by", who, "so far", "--take-over"});
    ASSERT_TRUE(first.process().running());
  }
  expect_refusal(lockstep(2, resume("run"), with_period("2")), {"is being trained by", who});
  EXPECT_FALSE(fs::exists(folder / "run/checkpoints/gen-000002"));
  expect_undisturbed(first, "run");
}

TEST_F(Lease, ARefusedStartLeavesTheDirectoryAsItWasAndReadersDoNotCare) {
  make_run("run");
  const Renewing living(lease("run"), holder_elsewhere());
  sleep_ms(150);
  const auto before = contents("run");
  for (const auto& args :
       {resume("run", {"--train.steps", "60"}), train("run", {"--overwrite"}), train("run")})
    for (const int ranks : {0, 3})
      expect_refusal(lockstep(ranks, args, with_period("2")),
                     {"process 4321 on elsewhere", "1m 30s", "--take-over"});
  EXPECT_EQ(lockstep(0, {"evaluate", "--run", folder / "run", "--split", "train"}).exit_code, 0);
  EXPECT_EQ(lockstep(0, {"inspect", folder / "run"}).exit_code, 0);
  EXPECT_EQ(digest(folder / "run").size(), 64u);
  EXPECT_TRUE(contents("run") == before);
}

TEST_F(Lease, TakeOverTakesTheRunFromALivingJobWhichEndsAtItsNextSave) {
  RunningJob first(0, train("run"), with_period("0.2"));
  ASSERT_TRUE(await_checkpoint("run"));
  RunningJob second(0, resume("run", {"--take-over"}), with_period("2"));
  const ProcessResult end = first.wait();
  EXPECT_EQ(end.exit_code, 2) << end.describe();
  EXPECT_EQ(count(end.err, "another job has taken over the run"), 1) << end.err;
  // Its end has left the other one's lease alone.
  EXPECT_EQ(read_lease("run")["pid"], second.launcher());
  ASSERT_TRUE(await_checkpoint("run", 2));
  EXPECT_EQ(count(second.process().so_far(), "as --take-over says"), 1);
  expect_undisturbed(second, "run");
}

TEST_F(Lease, AKilledJobOfThisHostIsFollowedAtOnce) {
  make_killed_run("run", "10");
  // Whatever the name of the start: a job killed on this host stands in nobody's way.
  const ProcessResult resumed = lockstep(0, resume("run", {"--train.steps", "100"}), with_period("2"));
  EXPECT_EQ(resumed.exit_code, 0) << resumed.describe();
  EXPECT_EQ(count(resumed.err, "it has ended without giving the run back"), 1) << resumed.err;
  EXPECT_LT(resumed.seconds, 20) << "two periods are 20 s";
  // A machine that was started anew holds none of its processes, also where a number is in use again.
  make_killed_run("rebooted", "10");
  edit_lease("rebooted", [](nlohmann::json& j) {
    j["pid"] = ::getpid();
    j["boot_id"] = "11111111-2222-3333-4444-555555555555";
  });
  EXPECT_EQ(lockstep(0, resume("rebooted", {"--train.steps", "100"})).exit_code, 0);
  // A number that is in use again without that.
  make_killed_run("reused", "10");
  edit_lease("reused", [](nlohmann::json& j) { j["pid"] = ::getpid(); });
  const ProcessResult reused = lockstep(2, train("reused", {"--overwrite", "--train.steps", "40"}));
  EXPECT_EQ(reused.exit_code, 0) << reused.describe();
  EXPECT_LT(reused.seconds, 20);
}

TEST_F(Lease, AStoppedJobCountsAsLivingUntilItsLeaseIsOld) {
  RunningJob first(0, train("run"), with_period("0.4"));
  ASSERT_TRUE(await_checkpoint("run"));
  kill(first.launcher(), SIGSTOP);
  RunningJob second(0, resume("run"), with_period("2"));
  ASSERT_TRUE(await_checkpoint("run", 2));
  EXPECT_EQ(count(second.process().so_far(), "it has not renewed its lease for the 0."), 1);
  kill(first.launcher(), SIGCONT);
  EXPECT_EQ(first.wait().exit_code, 2);
  EXPECT_EQ(read_lease("run")["pid"], second.launcher());
  expect_undisturbed(second, "run");
}

TEST_F(Lease, AStartWithNothingToTrainLeavesAStoppedJobItsRun) {
  RunningJob first(0, train("run"), with_period("0.4"));
  ASSERT_TRUE(await_checkpoint("run"));
  kill(first.launcher(), SIGSTOP);
  for (const int ranks : {0, 2}) {
    const ProcessResult nothing = lockstep(ranks, resume("run", {"--train.steps", "10"}), with_period("2"));
    EXPECT_EQ(nothing.exit_code, 0) << nothing.describe();
    EXPECT_EQ(count(nothing.err, "nothing is trained"), 1) << nothing.err;
    EXPECT_TRUE(fs::exists(folder / "run/model.safetensors"));
  }
  EXPECT_FALSE(fs::exists(folder / "run/checkpoints/gen-000002"));
  const auto told = json_lines(folder / "run/metrics.jsonl").size();
  kill(first.launcher(), SIGCONT);
  ASSERT_TRUE(first.process().running());
  for (int i = 0; i < 6000 && json_lines(folder / "run/metrics.jsonl").size() <= told; ++i) sleep_ms(10);
  expect_undisturbed(first, "run");
  EXPECT_GT(json_lines(folder / "run/metrics.jsonl").size(), told);
}

TEST_F(Lease, ADeadJobOfAnotherHostIsWaitedForTwoOfItsPeriods) {
  make_killed_run("run", "0.6");
  edit_lease("run", [](nlohmann::json& j) { j["host"] = "elsewhere"; });
  std::vector<std::string> args = resume("run", {"--train.steps", "100", "--watchdog.timeout", "1"});
  const ProcessResult result = lockstep(2, args, with_period("9"));
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(count(result.err, "elsewhere: it has not renewed its lease for the 1."), 1) << result.err;
  EXPECT_GT(result.seconds, 1.2);
}

TEST_F(Lease, AStartThatIsAskedToStopWhileItWatchesLeavesSoonAndTakesNothing) {
  make_killed_run("run", "10");
  edit_lease("run", [](nlohmann::json& j) {
    j["host"] = "elsewhere";
    j["period"] = 1e300;
  });
  const auto before = contents("run");
  for (const auto& [ranks, signal, code] : {std::tuple(0, SIGTERM, 75), {0, SIGINT, 130}, {2, SIGUSR1, 75}}) {
    RunningJob job(ranks, resume("run"), with_period("2"));
    ASSERT_TRUE(job.await_handlers(signal));
    job.run_for(1500);
    ASSERT_TRUE(job.process().running());
    job.process().send_signal(signal);
    const ProcessResult result = job.wait();
    EXPECT_EQ(result.exit_code, code) << result.describe();
    EXPECT_LT(result.seconds, 15);
    EXPECT_EQ(count(result.err, "nothing was changed"), 1) << result.err;
    EXPECT_TRUE(contents("run") == before);
  }
}

TEST_F(Lease, AnotherStartOfTheSameJobTakesOverAtOnce) {
  for (const auto& [name, value] :
       {std::pair("LOCKSTEP_RUN_ID", "host.17.1700000000"), {"SLURM_JOB_ID", "815"}}) {
    const std::string dir = name;
    ProcessOptions options = with_period("10");
    options.env[name] = value;
    RunningJob first(0, train(dir), options);
    ASSERT_TRUE(await_checkpoint(dir));
    const auto begin = std::chrono::steady_clock::now();
    RunningJob second(0, resume(dir), options);
    ASSERT_TRUE(await_checkpoint(dir, 2));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20)) << "two periods are 20 s";
    EXPECT_EQ(count(second.process().so_far(), "an earlier start of this job"), 1);
    EXPECT_EQ(first.wait().exit_code, 2);
    expect_undisturbed(second, dir);
  }
}

TEST_F(Lease, OfSeveralStartsAtOnceOneHasTheRun) {
  std::vector<std::unique_ptr<RunningJob>> jobs;
  for (int i = 0; i < 3; ++i)
    jobs.push_back(std::make_unique<RunningJob>(0, train("run", {"--overwrite"}), with_period("0.2")));
  const auto running = [&] {
    return std::count_if(jobs.begin(), jobs.end(), [](const auto& job) { return job->process().running(); });
  };
  for (int i = 0; i < 6000 && running() > 1; ++i) sleep_ms(10);
  ASSERT_EQ(running(), 1);
  ASSERT_TRUE(await_checkpoint("run"));
  for (const auto& job : jobs) {
    if (job->process().running())
      expect_undisturbed(*job, "run");
    else
      expect_refusal(job->wait(), {"is being trained by", "--take-over"});
  }
  EXPECT_FALSE(fs::exists(folder / "run/checkpoints/gen-000002"));
}

TEST_F(Lease, IsRenewedWhileTheJobRunsAndIsGoneWhenItHasEnded) {
  RunningJob job(0, train("run"), with_period("0.1"));
  ASSERT_TRUE(await_checkpoint("run"));
  const nlohmann::json first = read_lease("run");
  sleep_ms(700);
  const nlohmann::json later = read_lease("run");
  EXPECT_EQ(later["pid"], job.launcher());
  EXPECT_GT(later["renewals"], first["renewals"]);
  // Preempted.
  kill(job.launcher(), SIGUSR1);
  EXPECT_EQ(job.wait().exit_code, 75);
  EXPECT_FALSE(fs::exists(lease("run")));
  // Done, on several ranks.
  EXPECT_EQ(lockstep(2, train("run", {"--overwrite", "--train.steps", "100"})).exit_code, 0);
  EXPECT_FALSE(fs::exists(lease("run")));
  // Diverged.
  const ProcessResult diverged =
      lockstep(2, train("diverged", {"--optimizer.name", "sgd", "--optimizer.lr", "1e6"}));
  EXPECT_EQ(diverged.exit_code, 3) << diverged.describe();
  EXPECT_FALSE(fs::exists(lease("diverged")));
  // Refused after the lease was taken.
  fs::remove_all(folder / "run/checkpoints");
  EXPECT_EQ(lockstep(2, resume("run")).exit_code, 2);
  EXPECT_FALSE(fs::exists(lease("run")));
  for (const auto& entry : fs::directory_iterator(folder / "run"))
    EXPECT_EQ(entry.path().string().find("lease"), std::string::npos) << entry.path();
}

TEST_F(Lease, OneThatCannotBeWrittenOrReadIsNoReasonToStop) {
  fs::create_directories(lease("directory"));
  const ProcessResult result = lockstep(0, train("directory", {"--train.steps", "40"}), with_period("0.2"));
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(count(result.err, "lease.json' cannot be written"), 1) << result.err;
  make_run("run");
  const auto taken_over = [&] {
    const ProcessResult next =
        lockstep(0, train("run", {"--overwrite", "--train.steps", "40"}), with_period("0.2"));
    EXPECT_EQ(next.exit_code, 0) << next.describe();
    EXPECT_EQ(count(next.err, "a job whose lease cannot be read"), 1) << next.err;
  };
  for (const std::string& text : {std::string("{"), std::string(100000, 'x'),
                                  std::string("{\"host\":\"\\u001b[31m\",\"pid\":1e300,\"period\":1e300}")}) {
    write_file_bytes(lease("run"), text);
    taken_over();
  }
  ASSERT_EQ(mkfifo(lease("run").c_str(), 0600), 0);
  taken_over();
  // A period that is none, and one that would mean to wait for ever.
  ProcessOptions options = with_period("nan");
  expect_refusal(lockstep(2, train("odd"), options), {"LOCKSTEP_LEASE_PERIOD", "nan", "0.05 to 10"});
}

}  // namespace
}  // namespace lockstep::test
