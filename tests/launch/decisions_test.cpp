// What lockstep-run decides, with an mpirun in the test's hands: a script that ends as it is told.

#include <sys/wait.h>

#include "fake_mpirun.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

using Decisions = FakedMpirun;

TEST_F(Decisions, EndsThatAreRestartedAndEndsThatAreNot) {
  struct End {
    std::string how;
    int code;    ///< of lockstep-run
    int starts;  ///< with a second start that is done
  };
  for (const End& end : std::vector<End>{
           {"exit 0", 0, 1},
           {"exit 1", 1, 1},
           {"exit 2", 2, 1},
           {"exit 3", 3, 1},
           {"exit 75", 75, 1},
           {"exit 130", 130, 1},
           {"kill -INT $$", 130, 1},
           {"exit 4", 0, 2},
           {"exit 137", 0, 2},
           {"exit 139", 0, 2},
           {"exit 134", 0, 2},
           {"exit 143", 0, 2},
           {"exit 205", 0, 2},
           {"kill -KILL $$", 0, 2},
           {"kill -SEGV $$", 0, 2},
           {"echo ORTE has lost communication with a remote daemon. >&2; exit 1", 0, 2},
           {"echo ORTE was unable to reliably start one or more daemons. >&2; exit 1", 0, 2},
           {"echo srun: error: task 0 launch failed: Unspecified error >&2; exit 1", 0, 2},
           {"echo mpirun noticed something >&2; exit 1", 1, 1},
           {"echo There are not enough slots available in the system >&2; exit 1", 1, 1},
           {"echo There are not enough slots available in the system >&2; exit 213", 213, 1},
       }) {
    SCOPED_TRACE(end.how);
    forget_run();
    plan(end.how + "\nexit 0\n");
    const ProcessResult result = run({"-n", "2", "--backoff", "0"});
    EXPECT_EQ(result.exit_code, end.code) << result.describe();
    EXPECT_EQ(calls().size(), static_cast<std::size_t>(end.starts)) << result.describe();
    EXPECT_EQ(leftovers(), std::vector<std::string>());
  }
}

TEST_F(Decisions, AnMpirunThatEndsItsJobAndStaysIsKilled) {
  plan(
      "echo a non-zero exit code. Per user-direction, the job has been aborted. >&2; while :; do sleep 1; "
      "done\nexit 0\n");
  const ProcessResult result = run({"-n", "2", "--backoff", "0"});
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(calls().size(), 2u);
  EXPECT_EQ(count(result.err, "mpirun was killed: it said that the job was ending"), 1) << result.err;
}

TEST_F(Decisions, GivesUpAfterRestartsWithoutProgressAndWaitsLongerEachTime) {
  plan("exit 4\nexit 137\nexit 205\nexit 4\nexit 4\n");
  const ProcessResult result =
      run({"-n", "2", "--max-restarts", "3", "--backoff", "1", "--backoff-max", "2"});
  EXPECT_EQ(result.exit_code, 4) << result.describe();
  EXPECT_EQ(calls().size(), 4u);
  EXPECT_EQ(count(result.err, "in 1 s"), 1) << result.err;
  EXPECT_EQ(count(result.err, "in 2 s"), 2) << result.err;
  EXPECT_EQ(count(result.err, "giving up"), 1) << result.err;
  EXPECT_GE(result.seconds, 5.0);

  // A newer checkpoint is progress; the same step once more is not.
  forget_run();
  plan(
      "save 10; exit 4\nsave 20; exit 4\nsave 30; exit 4\nsave 40; exit 4\nsave 40; exit 4\nsave 20; exit "
      "4\n");
  const ProcessResult later = run({"-n", "2", "--max-restarts", "2", "--backoff", "0"});
  EXPECT_EQ(later.exit_code, 4) << later.describe();
  EXPECT_EQ(calls().size(), 6u) << later.err;

  forget_run();
  plan("exit 4\n");
  EXPECT_EQ(run({"-n", "2", "--max-restarts", "0"}).exit_code, 4);
  EXPECT_EQ(calls().size(), 1u);
}

TEST_F(Decisions, EachStartResumesWhereThereIsACheckpointAndBeginsAnewWhereThereIsNone) {
  plan("exit 137\nbegin; exit 137\nsave 25; exit 137\nexit 0\n");
  const ProcessResult result = run({"-n", "2", "--backoff", "0"});
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  ASSERT_EQ(calls().size(), 4u);
  for (const int i : {0, 1}) {
    EXPECT_EQ(count(calls()[i], "--resume") + count(calls()[i], "--overwrite"), 0) << calls()[i];
  }
  EXPECT_EQ(count(calls()[2], "train --overwrite --config"), 1) << calls()[2];
  EXPECT_EQ(count(calls()[3], "train --resume --config"), 1) << calls()[3];

  // The same command again, with the run there.
  plan("exit 0\n");
  EXPECT_EQ(run({"-n", "2"}).exit_code, 0);
  EXPECT_EQ(count(calls()[0], "--resume"), 1) << calls()[0];
  plan("exit 0\n");
  EXPECT_EQ(run({"-n", "2"}, {"--resume"}).exit_code, 0);
  EXPECT_EQ(count(calls()[0], "--resume"), 1) << calls()[0];

  // --overwrite until the first start got so far, and not again.
  plan("exit 137\nstart=100; save 5; exit 137\nexit 0\n");
  EXPECT_EQ(run({"-n", "2", "--backoff", "0"}, {"--overwrite"}).exit_code, 0);
  ASSERT_EQ(calls().size(), 3u);
  EXPECT_EQ(count(calls()[0], "--overwrite"), 1) << calls()[0];
  EXPECT_EQ(count(calls()[1], "--overwrite"), 1) << calls()[1];
  EXPECT_EQ(count(calls()[2], "--overwrite"), 0) << calls()[2];
  EXPECT_EQ(count(calls()[2], "--resume"), 1) << calls()[2];
}

TEST_F(Decisions, ARunOfSomebodyElseWithoutACheckpointIsLeftToTheProgramToRefuse) {
  fs::create_directory(folder / "run");
  write_file_bytes(folder / "run/config.resolved.ini", "");
  plan("exit 2\n");
  const ProcessResult result = run({"-n", "2"});
  EXPECT_EQ(result.exit_code, 2) << result.describe();
  EXPECT_EQ(count(calls()[0], "--overwrite") + count(calls()[0], "--resume"), 0) << calls()[0];
  EXPECT_FALSE(fs::exists(folder / "run/.lockstep-run"));
  // Nor at the second attempt: the first one did not make the run its own.
  plan("exit 2\n");
  EXPECT_EQ(run({"-n", "2"}).exit_code, 2);
  EXPECT_EQ(count(calls()[0], "--overwrite") + count(calls()[0], "--resume"), 0) << calls()[0];
  // One that lockstep-run had begun and lost is begun anew.
  forget_run();
  plan("begin; exit 4\n");
  EXPECT_EQ(run({"-n", "2", "--max-restarts", "0"}).exit_code, 4);
  plan("exit 0\n");
  EXPECT_EQ(run({"-n", "2"}).exit_code, 0);
  EXPECT_EQ(count(calls()[0], "--overwrite"), 1) << calls()[0];
}

TEST_F(Decisions, ANoteOfAProcessThatHasEndedButIsStillListedIsInNobodysWay) {
  const pid_t ended = fork();
  if (ended == 0) _exit(0);
  ASSERT_TRUE(becomes_so(30, [&] { return !is_alive(ended); }));
  std::ifstream stat("/proc/" + std::to_string(ended) + "/stat");
  std::string field, note;
  for (int i = 0; i < 22; ++i) stat >> field;  // its start time: proc(5)
  char host[256] = "";
  ASSERT_EQ(gethostname(host, sizeof host - 1), 0);
  note = std::string(host) + " " + std::to_string(ended) + " " + field + " some.run.1 0\n";
  fs::create_directory(folder / "run");
  write_file_bytes(folder / "run/.lockstep-run", note);
  plan("exit 0\n");
  EXPECT_EQ(run({"-n", "2"}).exit_code, 0);
  EXPECT_EQ(calls().size(), 1u);
  waitpid(ended, nullptr, 0);
}

// Slurm starts a job that it requeued when the script of the first start is gone, not its last process.
TEST_F(Decisions, ARequeuedJobWaitsForTheLockstepRunOfItsEarlierStart) {
  ProcessOptions options = with_fake();
  options.env["SLURM_JOB_ID"] = "77";
  const auto words = command({"-n", "2", "--grace", "60", "--backoff", "0"});
  plan(
      "begin; trap 'save 7; sleep 2; exit 75' USR1; touch $here/stands; while :; do sleep 0.1; done\nexit "
      "0\n");
  Process first(words, options);
  ASSERT_TRUE(becomes_so(30, [&] { return fs::exists(folder / "bin/stands"); }));

  // Another command of the same start is not waited for.
  const ProcessResult beside = run_process(words, options);
  EXPECT_EQ(beside.exit_code, 2) << beside.describe();
  options.env["SLURM_RESTART_COUNT"] = "1";
  options.env["SLURM_JOB_ID"] = "78";
  const ProcessResult other_job = run_process(words, options);
  EXPECT_EQ(other_job.exit_code, 2) << other_job.describe();

  options.env["SLURM_JOB_ID"] = "77";
  Process again(words, options);
  sleep_s(1.5);
  EXPECT_EQ(calls().size(), 1u);
  first.send_signal(SIGUSR1);
  const ProcessResult second = again.wait();
  EXPECT_EQ(first.wait().exit_code, 75);
  EXPECT_EQ(second.exit_code, 0) << second.describe();
  EXPECT_EQ(count(second.err, "waiting for the end of the lockstep-run of this job's earlier start"), 1)
      << second.describe();
  ASSERT_EQ(calls().size(), 2u);
  EXPECT_EQ(count(calls()[1], "--resume"), 1) << calls()[1];
}

TEST_F(Decisions, MpirunGetsWhatALostHostNeedsToBeNoticedAndTheUsersOwnWordsWin) {
  plan("exit 0\n");
  ASSERT_EQ(run({"-n", "2"}).exit_code, 0);
  const std::string call = calls()[0];
  for (const char* words :
       {"--bind-to none", "--mca oob_tcp_keepalive_time 5", "--mca oob_tcp_keepalive_intvl 2",
        "--mca oob_tcp_keepalive_probes 3", "-x LOCKSTEP_RUN_ID", "-n 2", "--oversubscribe"})
    EXPECT_EQ(count(call, words), 1) << words << ": " << call;
  forget_run();
  plan("exit 0\n");
  ASSERT_EQ(run({"-np", "3", "--bind-to", "core", "--mca", "oob_tcp_keepalive_time", "60", "--tag-output"})
                .exit_code,
            0);
  const std::string own = calls()[0];
  EXPECT_EQ(count(own, "--bind-to"), 1) << own;
  EXPECT_EQ(count(own, "oob_tcp_keepalive_time"), 1) << own;
  EXPECT_EQ(count(own, "oob_tcp_keepalive_time 60"), 1) << own;
  EXPECT_EQ(count(own, "-n 3"), 1) << own;
  EXPECT_EQ(count(own, "--tag-output"), 1) << own;
}

TEST_F(Decisions, SignalsArePassedOn) {
  struct Case {
    int signal;
    std::string job;  ///< what the fake does
    int code;
    std::string said;
  };
  const std::string stand = "; touch $here/stands; while :; do sleep 0.1; done\n";
  for (const Case& c : std::vector<Case>{
           {SIGTERM, "trap 'save 7; exit 75' USR1", 75, "the checkpoint of step 7 is saved"},
           {SIGUSR1, "trap 'save 7; exit 75' USR1", 75, "the checkpoint of step 7 is saved"},
           {SIGHUP, "trap 'save 7; exit 75' USR1", 75, "the checkpoint of step 7 is saved"},
           // Too early for the ranks to know the signal, or no answer in time: nothing was lost all the same.
           {SIGTERM, "trap - USR1", 75, "run again to go on"},
           {SIGTERM, "trap '' USR1", 75, "run again to go on"},
           {SIGINT, "trap 'save 7; exit 75' USR1", 130, "interrupted: the checkpoint of step 7 is saved"},
           {SIGINT, "trap 'exit 75' USR1", 130, "interrupted: there is no checkpoint yet"},
           {SIGINT, "trap - USR1", 130, "run again to start anew"},
           {SIGINT, "trap '' USR1", 130, "run again to start anew"},
           {SIGINT, "trap 'exit 0' USR1", 0, "done"},
           {SIGUSR2, "trap 'exit 2' USR2", 2, "mpirun ended with 2"},
           // It ended by itself meanwhile.
           {SIGTERM, "trap 'exit 0' USR1", 0, "done"},
           {SIGTERM, "trap 'exit 3' USR1", 3, "mpirun ended with 3"}}) {
    SCOPED_TRACE(c.job + " " + std::to_string(c.signal));
    forget_run();
    fs::remove(folder / "bin/stands");
    plan(c.job + stand + "exit 0\n");
    Process job(command({"-n", "2", "--grace", "2", "--backoff", "0"}), with_fake());
    ASSERT_TRUE(becomes_so(30, [&] { return fs::exists(folder / "bin/stands"); }));
    job.send_signal(c.signal);
    const ProcessResult result = job.wait();
    EXPECT_EQ(result.exit_code, c.code) << result.describe();
    EXPECT_GE(count(result.err, c.said), 1) << result.describe();
    EXPECT_EQ(calls().size(), 1u);
  }
  // An interrupt after a request to save is still an interrupt.
  forget_run();
  fs::remove(folder / "bin/stands");
  plan("trap 'sleep 1; save 7; exit 75' USR1" + stand + "exit 0\n");
  Process both(command({"-n", "2", "--backoff", "0"}), with_fake());
  ASSERT_TRUE(becomes_so(30, [&] { return fs::exists(folder / "bin/stands"); }));
  both.send_signal(SIGUSR1);
  sleep_s(0.3);
  both.send_signal(SIGINT);
  EXPECT_EQ(both.wait().exit_code, 130);
  EXPECT_EQ(newest_step(folder / "run"), 7);
  // Between two starts.
  forget_run();
  plan("exit 4\nexit 0\n");
  Process job(command({"-n", "2", "--backoff", "100", "--backoff-max", "100"}), with_fake());
  ASSERT_TRUE(becomes_so(30, [&] { return !calls().empty(); }));
  sleep_s(1);
  job.send_signal(SIGTERM);
  const ProcessResult result = job.wait();
  EXPECT_EQ(result.exit_code, 75) << result.describe();
  EXPECT_LT(result.seconds, 60.0);
  EXPECT_EQ(calls().size(), 1u);
}

}  // namespace
}  // namespace lockstep::test
