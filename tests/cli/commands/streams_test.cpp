// What goes to which stream, and signs of life: results on standard output, progress and messages on standard
// error; a bar where mpirun has a terminal.

#include <filesystem>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

class Streams : public ::testing::Test {
 protected:
  Streams() { write_file_bytes(folder / "small.ini", small_config()); }
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more = {}) {
    std::vector<std::string> args = {"train", "--config", folder / "small.ini", "--run.dir", folder / dir};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  /// Runs a command whose standard error, and with `output` its standard output, is a terminal of 80 columns.
  /// What the terminal shows, escape sequences included.
  static std::string on_terminal(const std::vector<std::string>& argv, bool output) {
    int master = -1;
    winsize size{};
    size.ws_col = 80;
    size.ws_row = 24;
    const pid_t pid = forkpty(&master, nullptr, nullptr, &size);
    if (pid == 0) {
      if (!output) {
        const int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO);
      }
      for (const auto& [name, value] : with_mpirun_env().env) setenv(name.c_str(), value.c_str(), 1);
      setenv("TERM", "xterm", 1);
      std::vector<char*> words;
      for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
      words.push_back(nullptr);
      execvp(words[0], words.data());
      _exit(127);
    }
    std::string shown;
    char buffer[4096];
    for (int waits = 0; waits < 1200;) {
      pollfd fd{master, POLLIN, 0};
      if (poll(&fd, 1, 50) == 0) {
        ++waits;
        continue;
      }
      const ssize_t n = read(master, buffer, sizeof buffer);
      if (n <= 0) break;
      shown.append(buffer, static_cast<std::size_t>(n));
    }
    int status = 0;
    kill(pid, SIGKILL);  // nothing, where it has ended
    waitpid(pid, &status, 0);
    close(master);
    return shown;
  }
  TempDir folder;
};

TEST_F(Streams, EpochsAreResultsAndStandOnStandardOutput) {
  for (const int ranks : {0, 2}) {
    const ProcessResult result = lockstep(ranks, train("run" + std::to_string(ranks)));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    std::istringstream out(result.out);
    int epochs = 0;
    for (std::string line; std::getline(out, line);) {
      if (!line.starts_with("epoch ")) continue;
      ++epochs;
      EXPECT_LE(line.size(), 80u + (line.back() == '\r' ? 1u : 0u)) << line;
      EXPECT_NE(line.find("validation: loss "), std::string::npos) << line;
    }
    EXPECT_EQ(epochs, 4) << result.out;
    EXPECT_EQ(count(result.err, "epoch "), 0) << result.err;
    EXPECT_EQ(count(result.out + result.err, "\x1b"), 0) << result.describe();
    EXPECT_EQ(count(result.out, "trained 12 steps in"), 1) << result.out;
  }
}

TEST_F(Streams, UnderMpirunThereIsABarWhereMpirunHasATerminal) {
  std::vector<std::string> program = {LOCKSTEP_PROGRAM};
  const std::vector<std::string> args = train("run", {"--train.epochs", "40"});
  program.insert(program.end(), args.begin(), args.end());
  const std::string shown = on_terminal(mpirun_argv(2, program), true);
  EXPECT_GE(count(shown, "\repoch "), 3) << shown;
  EXPECT_GE(count(shown, "\repoch 1/40 ["), 1) << shown;
  EXPECT_EQ(count(shown, "\x1b[Kepoch 40/40  loss"), 1) << shown;
  // With its output in a file, only the bar is shown.
  program.back() = "20";
  program.push_back("--overwrite");
  const std::string bar = on_terminal(mpirun_argv(2, program), false);
  EXPECT_GE(count(bar, "\repoch 1/20 ["), 1) << bar;
  EXPECT_EQ(count(bar, "epoch 20/20  loss"), 0) << bar;
  // Lines that are marked cannot be drawn in place.
  const std::string tagged = on_terminal(mpirun_argv(2, program, {"--tag-output"}), true);
  EXPECT_EQ(count(tagged, "epoch 1/20 ["), 0) << tagged;
  EXPECT_EQ(count(tagged, "epoch 20/20  loss"), 1) << tagged;
}

TEST_F(Streams, ATrainingWhoseReaderLeftIsComplete) {
  std::vector<std::string> argv = {"bash", "-c", "\"$@\" | head -1; exit ${PIPESTATUS[0]}", "bash",
                                   LOCKSTEP_PROGRAM};
  const std::vector<std::string> args = train("run", {"--train.epochs", "30"});
  argv.insert(argv.end(), args.begin(), args.end());
  const ProcessResult result = run_process(argv);
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(count(result.err, "error"), 0) << result.describe();
  EXPECT_TRUE(std::filesystem::exists(folder / "run/model.safetensors"));
  EXPECT_EQ(lockstep(0, {"inspect", folder / "run"}).exit_code, 0);
}

TEST_F(Streams, EveryLineOfMetricsHasTheTime) {
  ASSERT_EQ(lockstep(2, train("run")).exit_code, 0);
  std::string last;
  for (const auto& line : json_lines(folder / "run/metrics.jsonl")) {
    const std::string time = line.at("time");
    EXPECT_EQ(time.size(), 24u) << time;
    EXPECT_GE(time, last);
    last = time;
  }
  EXPECT_FALSE(last.empty());
}

}  // namespace
}  // namespace lockstep::test
