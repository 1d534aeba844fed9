// `lockstep doctor`: what it shows, and that each thing that can be wrong with a cluster is found when it is
// put there.

#include <filesystem>
#include <sched.h>

#include "cli/cli_data.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class Doctor : public testing::Test {
 protected:
  /// One rank for each command line, as parts of one job.
  static ProcessResult start(const std::vector<std::vector<std::string>>& programs) {
    std::vector<std::string> argv = {"mpirun", "--oversubscribe", "--bind-to", "none"};
    for (std::size_t i = 0; i < programs.size(); ++i) {
      if (i > 0) argv.push_back(":");
      argv.insert(argv.end(), {"-n", "1"});
      argv.insert(argv.end(), programs[i].begin(), programs[i].end());
    }
    return run_process(argv, with_mpirun_env());
  }
  static std::vector<std::string> with(std::vector<std::string> before, std::vector<std::string> args = {}) {
    before.insert(before.end(), {LOCKSTEP_PROGRAM, "doctor"});
    before.insert(before.end(), args.begin(), args.end());
    return before;
  }
  /// Lines that begin with `mark`.
  static std::vector<std::string> lines(const ProcessResult& result, const std::string& mark) {
    std::vector<std::string> found;
    std::istringstream in(result.out);
    for (std::string line; std::getline(in, line);)
      if (line.starts_with(mark)) found.push_back(line);
    return found;
  }
  /// Whether one line with `mark` holds all the fragments.
  static void expect_finding(const ProcessResult& result, const std::string& mark,
                             const std::vector<std::string>& fragments) {
    for (const std::string& line : lines(result, mark))
      if (std::all_of(fragments.begin(), fragments.end(),
                      [&](const std::string& f) { return line.find(f) != std::string::npos; }))
        return;
    ADD_FAILURE() << "no " << mark << testing::PrintToString(fragments) << "\n" << result.describe();
  }
  static void expect_wrong(const ProcessResult& result, const std::vector<std::string>& fragments) {
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    expect_finding(result, "wrong: ", fragments);
  }
  static void expect_doubtful(const ProcessResult& result, const std::vector<std::string>& fragments) {
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_TRUE(lines(result, "wrong: ").empty()) << result.out;
    expect_finding(result, "doubtful: ", fragments);
  }
  static int first_cpu() {
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) != 0) return -1;
    int cpu = 0;
    while (!CPU_ISSET(cpu, &mask)) ++cpu;
    return cpu;
  }
  TempDir folder;
};

TEST_F(Doctor, MeasuresEveryPairAndEveryClock) {
  for (const int ranks : {0, 1, 2, 4}) {
    const ProcessResult result = lockstep(ranks, {"doctor", "--device.threads", "1"});
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    const bool several = ranks > 1;
    for (const char* part : {"latency of messages", "bandwidth of messages", "clocks against that of rank 0"})
      EXPECT_EQ(count(result.out, part), several ? 1 : 0) << result.out;
    // Below each heading a table with a row of columns and a row for each rank but the last.
    std::istringstream in(result.out);
    std::size_t measured = 0;
    for (std::string line; std::getline(in, line);) {
      if (line.find(" of messages between ranks, ") == std::string::npos) continue;
      std::getline(in, line);
      for (int a = 0; a + 1 < ranks; ++a) {
        std::getline(in, line);
        std::istringstream row(line);
        double value = -1;
        row >> value;
        EXPECT_EQ(value, a) << line;
        for (int b = a + 1; b < ranks; ++b, ++measured) {
          EXPECT_TRUE(row >> value) << line;
          EXPECT_GT(value, 0.0) << line;
        }
      }
    }
    EXPECT_EQ(measured, static_cast<std::size_t>(several ? ranks * (ranks - 1) : 0)) << result.out;
    EXPECT_EQ(count(result.out, " +- "), std::max(0, ranks - 1)) << result.out;
    EXPECT_TRUE(lines(result, "wrong: ").empty()) << result.out;
  }
}

TEST_F(Doctor, ASoundJobHasNoFindings) {
  write_file_bytes(folder / "small.ini", small_config());
  for (const int ranks : {0, 1}) {
    const ProcessResult result = lockstep(ranks, {"doctor", "--config", folder / "small.ini"});
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(lines(result, "nothing doubtful").size(), 1u) << result.out;
    EXPECT_EQ(count(result.out, "wrong: ") + count(result.out, "doubtful: "), 0) << result.out;
  }
}

TEST_F(Doctor, UnequalBinaries) {
  const std::string other = folder / "lockstep";
  fs::copy_file(LOCKSTEP_PROGRAM, other);
  write_file_bytes(other, read_file_bytes(other) + "x");
  expect_wrong(start({with({}), {other, "doctor"}}),
               {"differ in program", "rank 0 on", "rank 1 on", "one build"});
  // Of three the odd one stands last.
  const ProcessResult three = start({{other, "doctor"}, with({}), with({})});
  expect_wrong(three, {"differ in program", "ranks 1-2 on", "; rank 0 on"});
}

TEST_F(Doctor, UnequalConfigs) {
  write_file_bytes(folder / "a.ini", small_config());
  write_file_bytes(folder / "b.ini", small_config() + "\n# changed on one host\n");
  expect_wrong(start({with({}, {"--config", folder / "a.ini"}), with({}, {"--config", folder / "b.ini"})}),
               {"differ in config", "rank 1 on"});
  expect_wrong(
      start({with({}, {"--config", folder / "a.ini"}), with({}, {"--config", folder / "absent.ini"})}),
      {"differ in config", "absent.ini"});
  write_file_bytes(folder / "bad.ini", "[train]\nglobal_bach = 3\n");
  const ProcessResult bad = lockstep(2, {"doctor", "--config", folder / "bad.ini"});
  expect_wrong(bad, {"bad.ini:2", "train.global_batch"});
  EXPECT_EQ(lines(bad, "wrong: ").size(), 1u) << bad.out;
}

TEST_F(Doctor, UnequalLibraries) {
  // A library of the same name and version, but another file.
  const ProcessResult ldd =
      run_process({"sh", "-c", "ldd " LOCKSTEP_PROGRAM " | awk '/libz\\.so|libm\\.so/ {print $3}'"});
  std::istringstream in(ldd.out);
  std::string library;
  for (std::string line; std::getline(in, line);)
    if (line.find("libm.so") != std::string::npos) library = line;
  ASSERT_FALSE(library.empty()) << ldd.describe();
  const std::string copy = folder / fs::path(library).filename().string();
  write_file_bytes(copy, read_file_bytes(library) + "x");
  expect_wrong(start({with({}), with({"env", "LD_LIBRARY_PATH=" + fs::path(copy).parent_path().string()})}),
               {"library file libm.so", "rank 1 on"});
}

TEST_F(Doctor, UnequalInstructionSetsAndVariables) {
  const ProcessResult result = start({with({}), with({"env", "ONEDNN_MAX_CPU_ISA=SSE41"})});
  expect_wrong(result, {"differ in instruction set", "rank 1 on", "--allow-numeric-change"});
  expect_finding(result, "doubtful: ", {"environment", "ONEDNN_MAX_CPU_ISA=SSE41"});
}

TEST_F(Doctor, RanksBoundToOneCpu) {
  const std::string cpu = std::to_string(first_cpu());
  const ProcessResult result = start({with({"taskset", "-c", cpu}), with({"taskset", "-c", cpu})});
  expect_doubtful(result, {"ranks 0-1 on", "bound to cpu " + cpu, "--bind-to none"});
  expect_finding(result, "doubtful: ", {"2 lanes together"});
}

TEST_F(Doctor, MoreLanesThanCpus) {
  expect_doubtful(lockstep(2, {"doctor", "--device.threads", "64"}), {"64 lanes", "device.threads"});
}

TEST_F(Doctor, TooLittleSharedMemory) {
  ProcessOptions options;
  options.env["LOCKSTEP_SHM_LIMIT_BYTES"] = "64000000";  // Docker's default
  const ProcessResult docker = lockstep(2, {"doctor"}, options);
  expect_doubtful(docker, {"/dev/shm", "64.0 MB free for 2 ranks", "4000000 parameters", "--shm-size"});
  EXPECT_EQ(count(docker.out, "1 group of ranks"), 1) << docker.out;
  options.env["LOCKSTEP_SHM_LIMIT_BYTES"] = "1000";
  const ProcessResult none = lockstep(2, {"doctor"}, options);
  expect_doubtful(none, {"/dev/shm", "1.0 kB free"});
  EXPECT_EQ(count(none.out, "2 groups of ranks"), 1) << none.out;
  // One rank needs none.
  EXPECT_EQ(lines(lockstep(1, {"doctor"}, options), "nothing doubtful").size(), 1u);
}

TEST_F(Doctor, AClockThatIsWrong) {
  for (const std::string ahead : {"5", "-7"}) {
    const ProcessResult result = start(
        {with({}), with({"env", "LD_PRELOAD=" LOCKSTEP_SKEWED_CLOCK, "LOCKSTEP_TEST_CLOCK_AHEAD=" + ahead})});
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    const bool later = ahead == "5";
    expect_finding(result, "doubtful: ",
                   {"clock of rank 1", later ? "ahead of" : "behind", later ? " 5.0" : " 7.0", "chrony"});
  }
}

TEST_F(Doctor, RanksThatBelieveThatTheyAreAlone) {
  const auto alone = [&](std::map<std::string, std::string> environment) {
    ProcessOptions options = in_time();
    options.env.merge(environment);
    return lockstep(0, {"doctor"}, options);
  };
  expect_refusal(alone({{"SLURM_STEP_NUM_TASKS", "3"}, {"SLURM_PROCID", "0"}}), {"3 tasks", "--mpi=pmix"});
  expect_refusal(alone({{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}}),
                 {"PMI_RANK", "env -u PMI_RANK -u PMI_SIZE", "mpirun"});
}

}  // namespace
}  // namespace lockstep::test
