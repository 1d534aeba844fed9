// Times of every rank in the metrics, the warning about a slow one, and the log files of ranks.

#include "cli/cli_data.h"
#include "cli/running_job.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class Stragglers : public testing::Test {
 protected:
  /// Steps of some milliseconds, so that computing is most of them.
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more = {},
                                 const std::string& threads = "1") const {
    std::vector<std::string> args =
        with_flags({"train"}, {{"run.dir", folder / dir},
                               {"data.format", "synthetic"},
                               {"data.samples", "480"},
                               {"data.shape", "3x16x16"},
                               {"data.classes", "4"},
                               {"model.layers", "conv:24x3 relu conv:24x3 relu flatten dense:4"},
                               {"train.global_batch", "48"},
                               {"train.slices", "4"},
                               {"device.threads", threads},
                               {"log.every_steps", "20"}});
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  static std::string warnings(const ProcessResult& result) {
    std::string found;
    std::istringstream in(result.err);
    for (std::string line; std::getline(in, line);)
      if (line.find("the others wait for it") != std::string::npos) found += line + "\n";
    return found;
  }
  TempDir folder;
};

TEST_F(Stragglers, ASlowRankIsNamedAndNotAgainAndAgain) {
  struct Case {
    int ranks;
    std::size_t slow;
  };
  for (const Case& c : {Case{2, 0}, Case{2, 1}, Case{3, 1}}) {
    SCOPED_TRACE(std::to_string(c.slow) + " of " + std::to_string(c.ranks));
    const std::string dir = "slow" + std::to_string(c.ranks) + std::to_string(c.slow);
    RunningJob job(c.ranks, train(dir, {"--train.epochs", "100000", "--log.per_rank", "true"}));
    ASSERT_TRUE(job.await_output("the run lies in"));
    const pid_t slow = job.pids().at(c.slow);
    {
      const Slowdown slowdown(slow);
      bool told = false;
      for (int i = 0; i < 600 && !told; ++i) {
        job.run_for(100);
        told = read_file_bytes(folder / dir + "/log.rank0.txt").find("the others wait for it") !=
               std::string::npos;
      }
      EXPECT_TRUE(told);
      job.run_for(2000);
    }
    job.process().send_signal(SIGUSR1);
    const ProcessResult result = job.wait();
    EXPECT_EQ(result.exit_code, 75) << result.describe();
    const std::string said = warnings(result);
    EXPECT_EQ(count(said, "rank " + std::to_string(c.slow) + " on "), 1) << said;
    EXPECT_EQ(count(said, "\n"), 1) << said;
  }
}

TEST_F(Stragglers, ANormalRunIsNotCalledSlowAlsoWithUnevenSlices) {
  // Four slices on three ranks. The bound is wide, since the cores may be busy with other work.
  for (const int ranks : {2, 3}) {
    const std::string dir = "even" + std::to_string(ranks);
    const ProcessResult result =
        lockstep(ranks, train(dir, {"--train.steps", "300", "--log.straggler_factor", "4"}));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(warnings(result), "");
  }
}

TEST_F(Stragglers, MetricsTellTheTimesOfEveryRank) {
  for (const int ranks : {0, 3}) {
    const std::string dir = "timed" + std::to_string(ranks);
    const ProcessResult result =
        lockstep(ranks, train(dir, {"--train.steps", "45", "--log.straggler_factor", "0"}));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    const auto wanted = static_cast<std::size_t>(std::max(1, ranks));
    std::vector<std::int64_t> steps;
    for (const nlohmann::json& line : json_lines(folder / dir + "/metrics.jsonl")) {
      if (line["kind"] != "timing") continue;
      steps.push_back(line["step"]);
      EXPECT_EQ(line["steps"], steps.size() == 1 ? 19 : 20) << "the first step is left out";
      for (const char* part : {"step_ms", "load_ms", "compute_ms", "wait_ms"})
        ASSERT_EQ(line[part].size(), wanted) << line;
      for (std::size_t r = 0; r < wanted; ++r) {
        EXPECT_GT(line["compute_ms"][r].get<double>(), 0.0);
        EXPECT_GE(line["wait_ms"][r].get<double>(), 0.0);
        EXPECT_GE(line["step_ms"][r].get<double>(), line["compute_ms"][r].get<double>() * 0.5);
      }
    }
    EXPECT_EQ(steps, (std::vector<std::int64_t>{20, 40}));
  }
}

TEST_F(Stragglers, EveryRankHasALogFileThatAResumeGoesOnWith) {
  const std::string run = folder / "logged";
  const std::vector<std::string> more = {"--train.steps", "20", "--log.per_rank", "true"};
  ASSERT_EQ(lockstep(2, train("logged", more, "64")).exit_code, 0);
  for (const int rank : {0, 1}) {
    const std::string log = read_file_bytes(run + "/log.rank" + std::to_string(rank) + ".txt");
    EXPECT_EQ(count(log, "rank  host"), 1) << log;
    EXPECT_EQ(count(log, "step 20: median of 19 steps"), 1) << log;
    // Said before there was a file, by one rank of the host.
    EXPECT_EQ(count(log, "warning: "), rank == 0 ? 1 : 0) << log;
    std::istringstream in(log);
    for (std::string line; std::getline(in, line);)
      EXPECT_TRUE(line.size() > 25 && line[4] == '-' && line[10] == 'T' && line[23] == 'Z') << line;
  }
  ASSERT_EQ(lockstep(3, {"train", "--resume", "--run.dir", run, "--train.steps", "40"}).exit_code, 0);
  const std::string log = read_file_bytes(run + "/log.rank1.txt");
  EXPECT_EQ(count(log, "rank  host"), 2) << log;
  EXPECT_EQ(count(log, "step 20: "), 1) << log;
  EXPECT_EQ(count(log, "step 40: "), 1) << log;
  EXPECT_TRUE(fs::exists(run + "/log.rank2.txt"));
  write_file_bytes(run + "/log.mine.txt", "not Lockstep's");
  ASSERT_EQ(lockstep(1, train("logged", {"--train.steps", "2", "--overwrite"})).exit_code, 0);
  for (const int rank : {0, 1, 2})
    EXPECT_FALSE(fs::exists(run + "/log.rank" + std::to_string(rank) + ".txt"));
  EXPECT_TRUE(fs::exists(run + "/log.mine.txt"));
}

TEST_F(Stragglers, TheLogFileHoldsTheErrorOfItsRank) {
  const ProcessResult result = lockstep(
      2, train("diverged", {"--train.steps", "200", "--log.per_rank", "true", "--optimizer.lr", "1e6"}));
  ASSERT_EQ(result.exit_code, 3) << result.describe();
  EXPECT_EQ(count(read_file_bytes(folder / "diverged/log.rank0.txt"), "lockstep: error: "), 1);
  EXPECT_EQ(count(read_file_bytes(folder / "diverged/log.rank1.txt"), "a peer has reported the failure"), 1);
}

TEST_F(Stragglers, ALogFileThatCannotBeWrittenIsRefusedBeforeTheFirstStep) {
  for (const bool pipe : {false, true}) {
    const std::string run = folder / (pipe ? "pipe" : "directory");
    fs::create_directories(run);
    const std::string log = run + "/log.rank1.txt";
    if (pipe)
      ASSERT_EQ(run_process({"mkfifo", log}).exit_code, 0);
    else
      fs::create_directory(log);
    expect_refusal(lockstep(2,
                            with_flags(train(pipe ? "pipe" : "directory"),
                                       {{"train.steps", "5"}, {"log.per_rank", "true"}}),
                            in_time()),
                   {log, "log.per_rank"});
    EXPECT_FALSE(fs::exists(run + "/metrics.jsonl"));
  }
}

}  // namespace
}  // namespace lockstep::test
