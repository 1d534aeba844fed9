// tests/gpu/run.sh first and more, with programs that are scripts of the test: whatever one of them does, the
// call ends in time, and log and table hold everything up to then.

#include "gpu/harness/fake_machine.h"

namespace lockstep::test {
namespace {

using testing::HasSubstr;
using testing::Not;

/// In the order of a call.
const std::vector<std::string> first_stages = {"versions",  "build",         "basics",   "digests",
                                               "times",     "model-tests",   "autotune", "memcheck",
                                               "placement", "trainer-tests", "memory"};

class GpuCall : public FakeMachine {};

TEST_F(GpuCall, FirstRunsEveryStageInOrderAndBringsFewFiles) {
  const ProcessResult result = call({"first"}, 0.2);
  EXPECT_EQ(result.exit_code, 0) << result.describe() << log();
  std::size_t at = 0;
  for (const std::string& stage : first_stages) {
    const std::string line = closing(stage);
    EXPECT_THAT(line, HasSubstr("STAGE " + stage + " 0 ")) << log();
    const std::size_t place = log().find(line);
    EXPECT_GE(place, at) << stage;
    at = place;
  }
  for (const char* row :
       {"| resnet50 | 10.000 | 20.000 | 2.00 | 100 |", "| resnet18_cifar | 10.000 |", "| mlp | 10.000 |",
        "| keras_cnn | 10.000 |", "| resnet18_cifar, autotuned | 10.000 |", "| once | 0 |",
        "| shared by 2 | 0 |", "| bf16 | 0 |", "Made GPU"})
    EXPECT_THAT(table(), HasSubstr(row));
  EXPECT_THAT(result.out, HasSubstr("| resnet50 | 10.000 |"));
  EXPECT_LE(files().size(), 8u);
  EXPECT_THAT(files(), testing::Contains("plans.txt"));
  // Only these are built, and only the last of the rows of times may look at the memory.
  EXPECT_THAT(calls(), HasSubstr("--target lockstep gpu_tests gpu_model_tests gpu_trainer_tests "
                                 "digest_program train_bench"));
  EXPECT_THAT(calls(), HasSubstr("gpu_model_tests --gtest_filter=*\n"));
  const std::string all = calls();
  EXPECT_GT(all.find("memory.used"), all.find("GpuPlacement")) << "nvidia-smi ran beside timed turns";
  std::size_t shards = 0;
  for (std::size_t i = all.find("gpu_model_tests --gtest_filter=*\n"); i != std::string::npos;
       i = all.find("gpu_model_tests --gtest_filter=*\n", i + 1))
    ++shards;
  EXPECT_EQ(shards, 7u);
}

TEST_F(GpuCall, WhatHangsCrashesOrFailsCostsOnlyItself) {
  // It asks not to be ended, and what it started is in a session of its own.
  const std::string sleeps = "sleep 987." + std::to_string(getpid());
  make("gpu_tests", "case $* in *GpuKernels.*:GpuCounters.\\*) trap '' TERM; setsid " + sleeps + " & " +
                        sleeps + " ;; esac\n");
  make("lockstep",
       "case $* in *graph*) for i in $(seq 1 40); do echo \"line $i of stderr\" >&2; done; kill -SEGV $$ ;; "
       "esac\n");
  make("train_bench", "case $* in *mlp*) echo 'no such thing' >&2; exit 3 ;; esac\n");
  const ProcessResult result = call({"first"}, 0.12);
  EXPECT_EQ(result.exit_code, 1) << result.describe();
  EXPECT_THAT(closing("basics"), HasSubstr("STAGE basics 124 ")) << log();
  EXPECT_THAT(table(), HasSubstr("| basics kernels | 124 |"));
  EXPECT_THAT(table(), HasSubstr("| basics nccl | 0 | 3 |"));
  EXPECT_EQ(processes_with(sleeps.substr(6)), 0);
  EXPECT_THAT(table(), HasSubstr("| plain | 139 |"));
  EXPECT_THAT(closing("digests"), HasSubstr("plain"));
  const std::string last = log().substr(log().find("it failed with 139"));
  EXPECT_THAT(last, HasSubstr("last lines of its stderr:\nline 11 of stderr\n"));
  EXPECT_THAT(last, HasSubstr("line 40 of stderr\n"));
  EXPECT_THAT(table(), HasSubstr("| mlp | failed with 3 | 20.000 |"));
  EXPECT_THAT(table(), HasSubstr("| keras_cnn | 10.000 | 20.000 | 2.00 |"));
  EXPECT_THAT(closing("times"), HasSubstr("STAGE times 3 "));
  for (const std::string& stage : first_stages) EXPECT_NE(closing(stage), "") << stage;
}

TEST_F(GpuCall, WhatPrintsForEverFillsNeitherLogNorDisk) {
  make("gpu_tests",
       "case $* in *GpuNccl*) while :; do echo a line of a flood; echo an error >&2; done ;; esac\n");
  make("torch", "case $* in *keras*) yes | tr -d '\\n' ;; esac\n");
  const ProcessResult result = call({"first"}, 0.08);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(closing("basics"), HasSubstr("STAGE basics 124 ")) << log().substr(0, 3000);
  EXPECT_THAT(log(), HasSubstr("bytes were left out here"));
  EXPECT_LT(log().size(), std::size_t{2} << 20);
  EXPECT_LT(result.out.size(), 12000u) << "what a machine gives back of the output";
  EXPECT_THAT(table(), HasSubstr("| basics sync | 0 | 3 |"));
  EXPECT_THAT(table(), HasSubstr("| keras_cnn | 10.000 | failed with 124 |"));
}

TEST_F(GpuCall, KilledInTheMiddleItHasWrittenEverythingUpToThen) {
  for (const int signal : {SIGKILL, SIGTERM}) {
    std::filesystem::remove_all(results());
    std::filesystem::create_directory(results());
    make("gpu_model_tests", "echo begun; sleep 20\n");
    Process process(command({"first"}), options(1));
    for (int i = 0; i < 600 && log().find("begun") == std::string::npos; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    ASSERT_THAT(log(), HasSubstr("| begun")) << process.so_far();
    ::kill(-process.pid(), signal);
    const ProcessResult result = process.wait();
    EXPECT_NE(result.exit_code, 0);
    for (const char* stage : {"versions", "build", "basics", "digests", "times"})
      EXPECT_THAT(closing(stage), HasSubstr(" 0 ")) << log();
    EXPECT_THAT(table(), HasSubstr("| keras_cnn | 10.000 | 20.000 | 2.00 |"));
    EXPECT_THAT(table(), HasSubstr("| model-tests |"));
    EXPECT_LE(files().size(), 8u);
    if (signal == SIGKILL) continue;  // then nobody is left who could end the programs, or write
    EXPECT_THAT(closing("model-tests"), HasSubstr("STAGE model-tests 143 "));
  }
}

TEST_F(GpuCall, EndsInTimeAlsoWhereEverythingHangs) {
  const std::string number = "456." + std::to_string(getpid());
  for (const char* program : {"nvidia-smi", "nvcc", "cmake", "mpirun", "torch", "train_bench", "lockstep",
                              "gpu_tests", "gpu_model_tests", "gpu_trainer_tests", "compute-sanitizer"})
    make(program, "trap '' TERM; sleep " + number + "\nsleep " + number + "\n");
  constexpr double scale = 0.04;
  const ProcessResult result = call({"first"}, scale);
  EXPECT_LT(result.seconds, 540 * scale + 1);
  EXPECT_THAT(result.exit_code, testing::AnyOf(1, 124, 143)) << result.describe();
  EXPECT_THAT(closing("versions"), HasSubstr("STAGE versions 124 "));
  EXPECT_EQ(processes_with(number), 0) << result.describe() << log();
}

TEST_F(GpuCall, WithoutProgramsItSaysOfEachThatItIsMissing) {
  std::filesystem::remove_all(folder / "build/tests");
  std::filesystem::remove(folder / "build/lockstep");
  const ProcessResult result = call({"first"}, 0.2);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(closing("basics"), HasSubstr("STAGE basics 127 "));
  EXPECT_THAT(table(), HasSubstr("| basics memory | 127 |"));
  EXPECT_THAT(closing("digests"), HasSubstr("STAGE digests 127 "));
  EXPECT_THAT(closing("times"), HasSubstr("STAGE times 0 ")) << log();
}

TEST_F(GpuCall, WhereNcclWorksOnlyWithoutCuMemTheRestGoesWithoutIt) {
  make("gpu_tests", "case $* in *GpuNccl*) [ \"${NCCL_CUMEM_ENABLE:-}\" = 0 ] || exit 1 ;; esac\n");
  make("lockstep", "[ \"${NCCL_CUMEM_ENABLE:-}\" = 0 ] || exit 1\n");
  EXPECT_EQ(call({"first"}, 0.2).exit_code, 1) << "it is told";
  EXPECT_THAT(closing("basics"), HasSubstr("NCCL works here only with NCCL_CUMEM_ENABLE=0"));
  EXPECT_THAT(table(), HasSubstr("| basics nccl, NCCL_CUMEM_ENABLE=0 | 0 | 3 |"));
  EXPECT_THAT(table(), HasSubstr("| basics nccl | 1 |"));
  EXPECT_THAT(closing("digests"), HasSubstr("STAGE digests 0 "));
}

TEST_F(GpuCall, OtherBitsAreAFailureThatNamesTheRun) {
  make("lockstep", "case $* in \"digest \"*plain) echo 'ffff'; exit 0 ;; esac\n");
  EXPECT_EQ(call({"first"}, 0.2).exit_code, 1);
  EXPECT_THAT(closing("digests"),
              testing::AllOf(HasSubstr("STAGE digests 1 "), HasSubstr("plain"), Not(HasSubstr("again"))));
}

TEST_F(GpuCall, MoreIsOfUseInAnyPrefix) {
  make("train_bench",
       "case $* in *gpt*) echo 'train_bench: --workload: it is none of mlp' >&2; exit 2 ;; esac\n");
  const ProcessResult result = call({"more", "200"}, 0.1);
  EXPECT_EQ(result.exit_code, 0) << result.describe() << log();
  std::size_t at = 0;
  for (const std::string stage :
       {"build", "autotuned-resnet50", "compile", "gpt", "racecheck", "initcheck", "turns"}) {
    const std::size_t place = log().find("STAGE " + stage + " 0 ");
    ASSERT_NE(place, std::string::npos) << stage << log();
    EXPECT_GT(place, at);
    at = place;
  }
  EXPECT_THAT(table(), HasSubstr("| resnet50, autotuned | 10.000 | 20.000 | 2.00 |"));
  EXPECT_THAT(table(), HasSubstr("turns |"));
  EXPECT_THAT(closing("gpt"), HasSubstr("train_bench has no GPT"));
  EXPECT_LT(result.seconds, 21);
}

// A test that hangs must not take the call with it.
TEST(GpuTimeOuts, ThoseOfTestsLieBelowThatOfACall) {
  int found = 0;
  for (const char* folder : {"gpu", "model", "trainer"}) {
    const std::string text =
        read_file_bytes(std::string(LOCKSTEP_SOURCE_DIR) + "/tests/" + folder + "/CMakeLists.txt");
    const std::string words = "LABELS gpu TIMEOUT ";
    for (std::size_t at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) {
      ++found;
      EXPECT_LT(std::stoi(text.substr(at + words.size())), 540) << folder;
    }
    EXPECT_EQ(text.find("LABELS gpu)"), std::string::npos) << folder << ": no time-out of its own";
  }
  EXPECT_EQ(found, 3);
}

TEST_F(GpuCall, WhatCannotBeMeantIsRefused) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"more"},
                                             {"more", "soon"},
                                             {"more", "5"},
                                             {"more", "-3"},
                                             {"first", "300"},
                                             {"more", "200", "tests"}}) {
    const ProcessResult result = call(words, 1);
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    EXPECT_THAT(result.err, HasSubstr("run.sh " + words[0]));
    EXPECT_FALSE(std::filesystem::exists(folder / "calls"));
  }
}

}  // namespace
}  // namespace lockstep::test
