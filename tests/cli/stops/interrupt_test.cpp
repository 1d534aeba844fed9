// Ctrl-C: a checkpoint, one line how to go on, exit code 130; a second one ends at once. Under plain mpirun,
// which then kills its ranks, one line that names the last checkpoint.

#include <random>

#include "support/terminal.h"

#include "cli/running_job.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class Interrupt : public testing::Test {
 protected:
  Interrupt() { write_file_bytes(config, small_config()); }
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> args = {"train", "--config", config, "--run.dir", folder / dir};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  std::vector<std::string> program(const std::vector<std::string>& args) const {
    std::vector<std::string> argv = {LOCKSTEP_PROGRAM};
    argv.insert(argv.end(), args.begin(), args.end());
    return argv;
  }
  std::vector<std::string> resume(const std::string& dir) const {
    return {"train", "--resume", "--run.dir", folder / dir};
  }
  std::string way_on(const std::string& dir) const {
    return "go on with: lockstep train --resume --run.dir " + (folder / dir);
  }
  static std::int64_t step_saved(const std::string& text) {
    const std::string words = "interrupted, a checkpoint was saved at step ";
    const std::size_t at = text.find(words);
    return at == std::string::npos ? -1 : std::stoll(text.substr(at + words.size()));
  }
  TempDir folder;
  const std::string config = folder / "small.ini";
};

/// Long enough to be met in the midst of it.
const std::vector<std::string> forever = {"--train.epochs", "100000", "--checkpoint.every_steps", "7"};

TEST_F(Interrupt, OnATerminalABareRunSavesAndTheDigestOfTheRunThatGoesOnIsThatOfAnUndisturbedOne) {
  const std::vector<std::string> length = {"--train.epochs", "120", "--checkpoint.every_steps", "7"};
  ProcessOptions patient;
  patient.timeout_s = 250;
  ASSERT_EQ(lockstep(0, train("whole", length), patient).exit_code, 0);
  std::mt19937 random(20261201);
  std::int64_t last = -1;
  int stopped = 0;
  for (int start = 0; start < 5; ++start) {
    Terminal job(program(last < 0 ? train("stopped", length) : resume("stopped")));
    if (last >= 0 || start > 0) {
      for (int i = 0; i < 60000 && !handles(job.pid(), SIGINT); ++i) sleep_ms(1);
    } else {
      ASSERT_TRUE(job.shows("the run lies in")) << job.screen();
    }
    // Some come before the first step, some during evaluations and saves.
    sleep_ms(static_cast<int>(random() % 400));
    job.press_ctrl_c();
    const int code = job.wait();
    if (code == 0) break;
    ASSERT_EQ(code, 130) << job.screen();
    EXPECT_EQ(count(job.screen(), "a checkpoint was saved at step"), 1) << job.screen();
    EXPECT_EQ(count(job.screen(), way_on("stopped")), 1) << job.screen();
    EXPECT_EQ(count(job.screen(), "lockstep: error"), 0) << job.screen();
    EXPECT_GE(step_saved(job.screen()), last);
    last = step_saved(job.screen());
    ++stopped;
  }
  EXPECT_GE(stopped, 2);
  ASSERT_EQ(lockstep(2, resume("stopped"), patient).exit_code, 0);
  EXPECT_EQ(digest(folder / "stopped", true), digest(folder / "whole", true));
}

TEST_F(Interrupt, BeforeTheFirstStepTheCheckpointIsThatOfStepZero) {
  RunningJob job(0, train("early"));
  ASSERT_TRUE(job.await_handlers(SIGINT));
  job.process().send_signal(SIGINT);
  const ProcessResult result = job.wait();
  EXPECT_EQ(result.exit_code, 130) << result.describe();
  EXPECT_EQ(step_saved(result.err), 0) << result.err;
  EXPECT_EQ(count(result.err, "interrupted"), 1) << result.err;
  EXPECT_EQ(lockstep(0, resume("early")).exit_code, 0);
}

TEST_F(Interrupt, ASecondOneEndsAtOnce) {
  RunningJob job(0, train("twice", forever));
  ASSERT_TRUE(job.await_handlers(SIGINT));
  job.process().send_signal(SIGINT);
  job.await_taken(SIGINT);  // two that wait are one; MPI has not even started
  job.process().send_signal(SIGSTOP);
  sleep_ms(700);
  job.process().send_signal(SIGINT);
  job.process().send_signal(SIGCONT);
  const ProcessResult result = job.wait();
  EXPECT_EQ(result.signal, SIGINT) << result.describe();
  EXPECT_EQ(step_saved(result.err), -1) << result.err;
}

TEST_F(Interrupt, ManyWithinAMomentAreOne) {
  RunningJob job(0, train("burst", forever));
  ASSERT_TRUE(job.await_output("the run lies in"));
  for (int i = 0; i < 5; ++i) {
    job.process().send_signal(SIGINT);
    sleep_ms(1);  // so that each is delivered
  }
  const ProcessResult result = job.wait();
  EXPECT_EQ(result.exit_code, 130) << result.describe();
  EXPECT_GE(step_saved(result.err), 0) << result.err;
}

TEST_F(Interrupt, AClosedTerminalSavesUnlessNohupSaysOtherwise) {
  RunningJob job(0, train("hangup", forever));
  ASSERT_TRUE(job.await_output("the run lies in"));
  job.process().send_signal(SIGHUP);
  const ProcessResult result = job.wait();
  EXPECT_EQ(result.exit_code, 75) << result.describe();
  EXPECT_EQ(count(result.err, "preempted: asked to stop by SIGHUP"), 1) << result.err;

  std::vector<std::string> argv = {"nohup"};
  for (const std::string& word : program(train("nohup"))) argv.push_back(word);
  ProcessOptions options;
  options.timeout_s = 100;
  Process heedless(argv, options);
  for (int i = 0; i < 60000 && !handles(heedless.pid(), SIGUSR1); ++i) sleep_ms(1);
  heedless.send_signal(SIGHUP);
  const ProcessResult whole = heedless.wait();
  EXPECT_EQ(whole.exit_code, 0) << whole.describe();
}

TEST_F(Interrupt, AfterTheLastStepItChangesNothing) {
  RunningJob job(0, train("late"));
  ASSERT_TRUE(job.await_output("trained 12 steps"));
  if (handles(job.launcher(), SIGINT)) job.process().send_signal(SIGINT);
  EXPECT_EQ(job.wait().exit_code, 0);
}

TEST_F(Interrupt, WhereItIsIgnoredItStaysIgnored) {
  // As a script's background does it.
  ProcessOptions options;
  options.timeout_s = 100;
  std::vector<std::string> argv = {"bash", "-c", "trap '' INT; exec \"$@\"", "bash"};
  for (const std::string& word : program(train("ignored"))) argv.push_back(word);
  Process job(argv, options);
  for (int i = 0; i < 60000 && !handles(job.pid(), SIGUSR1); ++i) sleep_ms(1);
  job.send_signal(SIGINT);
  job.send_signal(SIGINT);
  const ProcessResult result = job.wait();
  EXPECT_EQ(result.exit_code, 0) << result.describe();
}

TEST_F(Interrupt, UnderMpirunOneLineNamesTheLastCheckpointAndNothingIsRecorded) {
  Terminal job(mpirun_argv(3, program(train("run", forever))));
  ASSERT_TRUE(job.shows("the run lies in")) << job.screen();
  for (int i = 0; i < 60000 && !fs::exists(folder / "run/checkpoints/gen-000001/step-000000007") &&
                  !fs::exists(folder / "run/checkpoints/gen-000001/step-000000014");
       ++i)
    sleep_ms(1);
  sleep_ms(100);
  job.press_ctrl_c();
  const int code = job.wait();
  EXPECT_GT(code, 0) << job.screen();
  EXPECT_EQ(count(job.screen(), "mpirun was interrupted and ends the job"), 1) << job.screen();
  EXPECT_EQ(count(job.screen(), "the last checkpoint is that of step "), 1) << job.screen();
  EXPECT_EQ(count(job.screen(), way_on("run")), 1) << job.screen();
  EXPECT_EQ(count(job.screen(), "mpirun ends this rank"), 0) << job.screen();
  EXPECT_FALSE(fs::exists(folder / "run/terminated.report.txt"));
  EXPECT_FALSE(fs::exists(folder / "run/lease.json")) << "the next start would wait for it";
  EXPECT_EQ(lockstep(0, {"train", "--resume", "--run.dir", folder / "run", "--dry-run"}).exit_code, 0);
}

TEST_F(Interrupt, UnderMpirunBeforeTheFirstCheckpointItSaysThatThereIsNone) {
  Terminal job(mpirun_argv(
      2, program(train("run", {"--train.epochs", "100000", "--checkpoint.every_steps", "1000000"}))));
  ASSERT_TRUE(job.shows("the run lies in")) << job.screen();
  sleep_ms(200);
  job.press_ctrl_c();
  EXPECT_GT(job.wait(), 0) << job.screen();
  EXPECT_EQ(count(job.screen(), "there is no checkpoint yet"), 1) << job.screen();
  EXPECT_FALSE(fs::exists(folder / "run/terminated.report.txt"));
}

}  // namespace
}  // namespace lockstep::test
