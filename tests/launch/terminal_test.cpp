// lockstep-run at a terminal: Ctrl-C, job control, closed descriptors; with an mpirun in the test's hands and
// a real one.

#include "support/terminal.h"

#include "fake_mpirun.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class AtATerminal : public FakedMpirun {
 protected:
  static std::string words(const std::vector<std::string>& argv) {
    std::string text;
    for (const std::string& word : argv) text += " '" + word + "'";
    return text;
  }
  /// For a shell: into the test's folder, with the fake first in PATH.
  std::string setting() const {
    return "cd '" + folder.path() + "' && export TMPDIR='" + temporary + "' PATH='" + (folder / "bin") +
           "':$PATH && ";
  }
};

TEST_F(AtATerminal, OneCtrlCSavesAndTwoEndAtOnce) {
  const std::string stand = "touch $here/stands; while :; do sleep 0.1; done\nexit 0\n";
  struct Case {
    std::string job;
    int presses;
    std::string said;
  };
  for (const Case& c : std::vector<Case>{
           {"trap 'save 7; exit 75' USR1; ", 1, "interrupted: the checkpoint of step 7 is saved; run again"},
           {"trap '' USR1; ", 2, "interrupted a second time"}}) {
    forget_run();
    fs::remove(folder / "bin/stands");
    plan(c.job + stand);
    Terminal shell({"bash", "-c", setting() + "exec" + words(command({"-n", "2"}))});
    ASSERT_TRUE(becomes_so(30, [&] { return fs::exists(folder / "bin/stands"); })) << shell.screen();
    const auto begin = std::chrono::steady_clock::now();
    shell.press_ctrl_c();
    ASSERT_TRUE(shell.shows("asking the job to save")) << shell.screen();
    if (c.presses == 2) {
      sleep_s(0.8);  // within half a second both would be one request
      shell.press_ctrl_c();
    }
    EXPECT_EQ(shell.wait(), 130) << shell.screen();
    EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 20);
    EXPECT_EQ(count(shell.screen(), c.said), 1) << shell.screen();
    EXPECT_EQ(count(shell.screen(), "run again to"), 1) << shell.screen();
    EXPECT_EQ(calls().size(), 1u);
    EXPECT_EQ(leftovers(), std::vector<std::string>());
  }
}

TEST_F(AtATerminal, WhileItWaitsForARestartCtrlCIsTheEnd) {
  plan("save 3; exit 4\nexit 0\n");
  Terminal shell(
      {"bash", "-c",
       setting() + "exec" + words(command({"-n", "2", "--backoff", "50", "--backoff-max", "50"}))});
  ASSERT_TRUE(shell.shows("restart 1")) << shell.screen();
  sleep_s(0.5);
  shell.press_ctrl_c();
  EXPECT_EQ(shell.wait(), 130) << shell.screen();
  EXPECT_EQ(count(shell.screen(), "the newest checkpoint is that of step 3; run again to go on"), 1)
      << shell.screen();
  EXPECT_EQ(calls().size(), 1u);
}

TEST_F(AtATerminal, ARealJobInAnInteractiveShellSavesAndTheSameCommandGoesOn) {
  fs::remove(folder / "bin/mpirun");
  const std::vector<std::string> command =
      launch({"-n", "2", "--backoff", "0"}, train("run", 600, {}, 100000));
  const std::string want = undisturbed(600);
  Terminal shell({"bash", "--norc", "--noprofile", "-i"});
  shell.type(setting() + words(command) + "\n");
  ASSERT_TRUE(becomes_so(60, [&] {
    shell.screen();
    return fs::exists(folder / "run/metrics.jsonl") && fs::file_size(folder / "run/metrics.jsonl") > 500;
  })) << shell.screen();
  shell.press_ctrl_c();
  ASSERT_TRUE(shell.shows("interrupted: the checkpoint of step")) << shell.screen();
  sleep_s(0.3);
  shell.type("echo code=$?\n");
  EXPECT_TRUE(shell.shows("code=130")) << shell.screen();
  EXPECT_EQ(count(shell.screen(), "flight recorder"), 0) << shell.screen();
  EXPECT_EQ(count(shell.screen(), "mpirun ends this rank"), 0) << shell.screen();
  EXPECT_FALSE(fs::exists(folder / "run/terminated.report.txt"));
  EXPECT_TRUE(ranks_of("run").empty());
  EXPECT_GT(newest_step(folder / "run"), 0);
  shell.type("exit\n");
  shell.wait(10);
  const ProcessResult result = run_process(command, environment(240));
  ASSERT_EQ(result.exit_code, 0) << told(result);
  EXPECT_EQ(digest(folder / "run", true), want);
}

TEST_F(AtATerminal, ClosedDescriptorsAreNobodysHindrance) {
  fs::remove(folder / "bin/mpirun");
  const std::string want = undisturbed(20);
  for (const char* closed : {"<&-", ">&-", "<&- >&-", "2>&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"}) {
    SCOPED_TRACE(closed);
    ProcessOptions options = environment(100);
    const auto command = launch({"-n", "2", "--log", folder / "log"}, train("run", 20));
    const ProcessResult result = run_process({"bash", "-c", "exec" + words(command) + " " + closed}, options);
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(digest(folder / "run", true), want);
    for (const auto& entry : fs::recursive_directory_iterator(folder / "run")) {
      if (!entry.is_regular_file()) continue;
      const std::string bytes = read_file_bytes(entry.path());
      for (const char* foreign : {"lockstep-run:", "rank  host", "the run lies in"})
        EXPECT_EQ(bytes.find(foreign), std::string::npos) << foreign << " in " << entry.path();
    }
    EXPECT_EQ(count(read_file_bytes(folder / "log"), "done after 1 start(s)"), 1);
    fs::remove_all(folder / "run");
    fs::remove(folder / "log");
  }
}

}  // namespace
}  // namespace lockstep::test
