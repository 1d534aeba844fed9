// Asked to stop by SIGUSR1 or SIGTERM: the step ends, a checkpoint is saved, exit code 75, and the run that
// goes on ends in the digest of one that was never disturbed.

#include <random>

#include "cli/running_job.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

/// The step of "a checkpoint was saved at step K"; -1 when it was not said exactly once.
std::int64_t step_saved(const ProcessResult& result) {
  const std::string words = "a checkpoint was saved at step ";
  const std::size_t at = result.err.find(words);
  if (at == std::string::npos || result.err.find(words, at + 1) != std::string::npos) return -1;
  return std::stoll(result.err.substr(at + words.size()));
}

class Preemption : public testing::Test {
 protected:
  Preemption() { write_file_bytes(config, small_config()); }
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> args = {"train", "--config", config, "--run.dir", folder / dir};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  std::vector<std::string> resume(const std::string& dir) const {
    return {"train", "--resume", "--run.dir", folder / dir};
  }
  void expect_saved(const ProcessResult& result, const std::string& dir) const {
    EXPECT_EQ(result.exit_code, 75) << result.describe();
    EXPECT_GE(step_saved(result), 0) << result.describe();
    EXPECT_NE(result.err.find("lockstep train --resume --run.dir " + (folder / dir)), std::string::npos)
        << result.err;
    EXPECT_EQ(count(result.err, "lockstep: error"), 0) << result.err;
    EXPECT_FALSE(fs::exists(folder / dir + "/model.safetensors"));
  }
  TempDir folder;
  const std::string config = folder / "small.ini";
};

TEST_F(Preemption, ARunThatIsStoppedAgainAndAgainEndsInTheDigestOfOneThatWasNot) {
  const std::vector<std::string> length = {"--train.epochs", "300", "--checkpoint.every_steps", "7"};
  ProcessOptions patient;
  patient.timeout_s = 250;
  ASSERT_EQ(lockstep(0, train("whole", length), patient).exit_code, 0);
  const std::string want = digest(folder / "whole", true);

  enum class Target { launcher, one_rank, every_rank, twice };
  struct Stop {
    int ranks;
    int signal;
    Target target;
  };
  std::mt19937 random(20261122);
  std::int64_t last = -1;
  int stopped = 0, starts = 0;
  bool first = true;
  for (const Stop& stop : std::vector<Stop>{{2, SIGUSR1, Target::launcher},
                                            {3, SIGUSR1, Target::one_rank},
                                            {0, SIGTERM, Target::launcher},
                                            {1, SIGUSR1, Target::launcher},
                                            {2, SIGUSR1, Target::twice},
                                            {3, SIGUSR1, Target::every_rank},
                                            {0, SIGUSR1, Target::twice},
                                            {2, SIGUSR1, Target::one_rank}}) {
    ProcessOptions options;
    // Every other time words travel as messages, as between hosts.
    if (++starts % 2 == 0) options.env["LOCKSTEP_NO_SHARED_MEMORY"] = "1";
    RunningJob job(stop.ranks, first ? train("stopped", length) : resume("stopped"), options);
    ASSERT_TRUE(job.await_handlers(SIGUSR1));
    job.run_for(static_cast<int>(random() % 900));
    const std::vector<pid_t> pids = job.pids();
    switch (stop.target) {
      case Target::launcher:
        job.process().send_signal(stop.signal);
        break;
      case Target::twice:
        job.process().send_signal(stop.signal);
        sleep_ms(static_cast<int>(random() % 20));
        job.process().send_signal(stop.signal);
        break;
      case Target::one_rank:
        if (!pids.empty()) ::kill(pids[random() % pids.size()], stop.signal);
        break;
      case Target::every_rank:
        for (const pid_t pid : pids) ::kill(pid, stop.signal);
        break;
    }
    const ProcessResult result = job.wait();
    ASSERT_FALSE(result.timed_out) << result.describe();
    if (result.exit_code == 0) break;  // it came after the end
    first = false;
    expect_saved(result, "stopped");
    EXPECT_GE(step_saved(result), last);
    last = step_saved(result);
    ++stopped;
    if (HasFailure()) return;
  }
  EXPECT_GE(stopped, 2);
  EXPECT_GT(last, 0) << "no signal came in the midst of training";
  const ProcessResult end = lockstep(3, resume("stopped"), patient);
  ASSERT_EQ(end.exit_code, 0) << end.describe();
  EXPECT_EQ(digest(folder / "stopped", true), want);
  EXPECT_EQ(digest(folder / "stopped"), digest(folder / "whole"));
}

TEST_F(Preemption, ASignalBeforeTheFirstStepIsKept) {
  ASSERT_EQ(lockstep(1, train("whole")).exit_code, 0);
  const std::string want = digest(folder / "whole", true);
  for (const int ranks : {0, 1, 2, 3}) {
    const std::string dir = "early" + std::to_string(ranks);
    RunningJob job(ranks, train(dir));
    ASSERT_TRUE(job.await_handlers(SIGUSR1));
    ::kill(job.pids().back(), SIGUSR1);  // MPI has hardly begun to start
    const ProcessResult result = job.wait();
    expect_saved(result, dir);
    EXPECT_EQ(step_saved(result), 0) << result.err;
    // And again: a run that resumes has nothing new to save.
    RunningJob again(ranks, resume(dir));
    ASSERT_TRUE(again.await_handlers(SIGUSR1));
    ::kill(again.pids().front(), SIGUSR1);
    const ProcessResult second = again.wait();
    expect_saved(second, dir);
    EXPECT_EQ(step_saved(second), 0) << second.err;
    ASSERT_EQ(lockstep(2, resume(dir)).exit_code, 0);
    EXPECT_EQ(digest(folder / dir, true), want) << ranks;
  }
}

TEST_F(Preemption, ASignalAfterTheLastStepChangesNothing) {
  ASSERT_EQ(lockstep(1, train("whole")).exit_code, 0);
  for (const int ranks : {0, 2}) {
    const std::string dir = "late" + std::to_string(ranks);
    RunningJob job(ranks, train(dir));
    ASSERT_TRUE(job.await_output("trained 12 steps"));
    for (const pid_t pid : job.pids())
      if (handles(pid, SIGUSR1)) ::kill(pid, SIGUSR1);
    const ProcessResult result = job.wait();
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(digest(folder / dir, true), digest(folder / "whole", true));
    EXPECT_EQ(digest(folder / dir), digest(folder / "whole"));
  }
}

TEST_F(Preemption, UnderMpirunSigtermIsNoRequestToSave) {
  RunningJob job(2, train("run", {"--train.epochs", "100000"}));
  ASSERT_TRUE(job.await_output("the run lies in"));
  job.process().send_signal(SIGTERM);
  const ProcessResult result = job.wait();
  EXPECT_FALSE(result.timed_out);
  EXPECT_NE(result.exit_code, 0);
  EXPECT_NE(result.exit_code, 75);
  EXPECT_EQ(count(result.err, "preempted"), 0) << result.err;
}

TEST_F(Preemption, WithoutACheckpointItDoesNotClaimOne) {
  for (const int ranks : {0, 2}) {
    const std::string dir = "full" + std::to_string(ranks);
    RunningJob job(ranks, train(dir, {"--train.epochs", "100000", "--checkpoint.every_steps", "1000000"}));
    ASSERT_TRUE(job.await_output("the run lies in"));
    // No checkpoint can be made where the directory of this start is a file.
    const std::string generation = folder / dir + "/checkpoints/gen-000001";
    fs::rename(generation, folder / dir + "/moved");
    write_file_bytes(generation, "in the way");
    for (const pid_t pid : job.pids()) ::kill(pid, SIGUSR1);
    const ProcessResult result = job.wait();
    EXPECT_EQ(result.exit_code, 1) << result.describe();
    EXPECT_EQ(step_saved(result), -1) << result.err;
    EXPECT_EQ(count(result.err, "lockstep: error"), 1) << result.err;
    EXPECT_NE(result.err.find("could not be saved"), std::string::npos) << result.err;
  }
}

TEST_F(Preemption, AnOutputThatCannotBeWrittenDoesNotHideThatARunIsToBeGoneOnWith) {
  ProcessOptions options = with_mpirun_env();
  options.timeout_s = 100;
  Process job({"sh", "-c", "exec \"$@\" > /dev/full", "sh", LOCKSTEP_PROGRAM, "train", "--config", config,
               "--run.dir", folder / "full", "--train.epochs", "100000"},
              options);
  for (int i = 0; i < 10000 && !handles(job.pid(), SIGUSR1); ++i) sleep_ms(1);
  sleep_ms(200);
  ASSERT_EQ(kill(job.pid(), SIGUSR1), 0);
  const ProcessResult result = job.wait();
  EXPECT_EQ(result.exit_code, 75) << result.describe();
  EXPECT_EQ(count(result.err, "warning: standard output: it cannot be written"), 1) << result.describe();
}

}  // namespace
}  // namespace lockstep::test
