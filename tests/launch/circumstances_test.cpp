// lockstep-run against circumstances that nobody asked for, with an mpirun in the test's hands.

#include "fake_mpirun.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class Circumstances : public FakedMpirun {
 protected:
  /// An agent that writes down whom it was asked for, and runs the script here.
  std::vector<std::string> with_agent(const std::string& script) const {
    write_script(folder / "bin/agent", "#!/bin/bash\necho \"$1\" >>\"$(dirname \"$0\")/asked\"\n" + script +
                                           "shift; exec \"$@\"\n");
    return {"--mca", "plm_rsh_agent", folder / "bin/agent", "--backoff", "0"};
  }
};

TEST_F(Circumstances, AHostfileIsReadAsMpirunReadsIt) {
  std::vector<std::string> options = with_agent("");
  options.insert(options.end(), {"--hostfile", "hosts"});
  plan("cp \"$(sed -n 's/.*--hostfile \\([^ ]*\\).*/\\1/p' $here/calls)\" $here/taken; exit 0\n");
  write_file_bytes(folder / "hosts",
                   "// two cores\ntwice\ntwice  # a slot each time it is named\nme@there slots = 2\r\n"
                   "10.99.99.9 slots=2 max_slots=3\nname username=you count=1");
  const ProcessResult result = run(options);
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(read_file_bytes(folder / "bin/taken"),
            "twice slots=2\nme@there slots=2\n10.99.99.9 slots=2 max_slots=3\nyou@name slots=1\n");
  EXPECT_EQ(count(calls()[0], "-n 7 "), 1) << calls()[0];
  const std::string asked = read_file_bytes(folder / "bin/asked");
  for (const char* who : {"twice\n", "me@there\n", "10.99.99.9\n", "you@name\n"})
    EXPECT_GE(count(asked, who), 1) << asked;
}

TEST_F(Circumstances, ASignalWhileHostsAreAskedStartsNothing) {
  std::vector<std::string> options = with_agent("sleep 2\n");
  options.insert(options.end(), {"--host", "far:*"});
  for (const auto& [signal, code] : {std::pair(SIGINT, 130), {SIGTERM, 75}}) {
    forget_run();
    fs::remove(folder / "bin/asked");
    plan("trap 'exit 75' USR1; while :; do sleep 0.1; done\n");
    Process job(command(options), with_fake());
    ASSERT_TRUE(becomes_so(30, [&] { return fs::exists(folder / "bin/asked"); }));
    job.send_signal(signal);
    const ProcessResult result = job.wait();
    EXPECT_EQ(result.exit_code, code) << result.describe();
    EXPECT_EQ(calls().size(), 0u) << result.describe();
  }
}

TEST_F(Circumstances, OfTwoThatStartAtOnceOneHasTheRun) {
  for (int i = 0; i < 5; ++i) {
    forget_run();
    plan("begin; sleep 3; exit 0\n");
    Process first(command({"-n", "1"}), with_fake());
    Process second(command({"-n", "1"}), with_fake());
    const ProcessResult one = first.wait(), other = second.wait();
    EXPECT_EQ(one.exit_code + other.exit_code, 2) << one.describe() << other.describe();
    EXPECT_EQ(calls().size(), 1u);
    EXPECT_EQ(count(one.err + other.err, "another lockstep-run"), 1) << one.err << other.err;
  }
}

TEST_F(Circumstances, WhatAKilledOneLeftIsEndedAlsoWhenTmpdirIsAnother) {
  plan("begin; echo $$ >$here/pid; touch $here/stands; while :; do sleep 0.1; done\nexit 0\n");
  Process job(command({"-n", "1"}), with_fake());
  ASSERT_TRUE(becomes_so(30, [&] { return fs::exists(folder / "bin/stands"); }));
  const int orphan = std::stoi(read_file_bytes(folder / "bin/pid"));
  job.send_signal(SIGKILL);
  ProcessOptions options = with_fake();
  fs::create_directory(folder / "other");
  options.env["TMPDIR"] = folder / "other";
  const ProcessResult next = run_process(command({"-n", "1"}), options);
  EXPECT_EQ(next.exit_code, 0) << next.describe();
  const bool ended = !is_alive(orphan);
  kill(orphan, SIGKILL);
  EXPECT_TRUE(ended) << next.describe();
}

TEST_F(Circumstances, AnSrunThatEndsWithZeroAndStartedNothingIsNotTheEndOfTheRun) {
  write_script(folder / "bin/srun", fake_mpirun);
  plan("save 5; exit 0\ntouch $run/model.safetensors; exit 0\n");
  ProcessOptions options = with_fake();
  options.env["SLURM_JOB_ID"] = "77";
  const ProcessResult result =
      run_process(command({"--launcher", "srun", "-n", "2", "--backoff", "0"}), options);
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  ASSERT_EQ(calls().size(), 2u) << result.describe();
  EXPECT_EQ(count(calls()[1], "--resume"), 1) << calls()[1];
}

TEST_F(Circumstances, ItGoesOnWhenNobodyReadsWhatItSays) {
  plan("exit 4\nexit 0\n");
  std::string words;
  for (const std::string& word : command({"-n", "1", "--backoff", "0"})) words += "'" + word + "' ";
  run_process({"bash", "-c", "{ sleep 0.5; " + words + "; echo $? >code; } 2>&1 | true"}, with_fake());
  EXPECT_EQ(read_file_bytes(folder / "code"), "0\n");
  EXPECT_EQ(calls().size(), 2u);
}

TEST_F(Circumstances, TheFirstRestartWaitsForBackoffAndNoneLongerThanBackoffMax) {
  for (const auto& [backoff, most, wait] :
       {std::tuple("0", "9", "in 0 s"), {"2", "9", "in 2 s"}, {"100", "1", "in 1 s"}}) {
    forget_run();
    plan("exit 4\nexit 0\n");
    const ProcessResult result = run({"-n", "1", "--backoff", backoff, "--backoff-max", most});
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(count(result.err, wait), 1) << result.err;
  }
}

}  // namespace
}  // namespace lockstep::test
