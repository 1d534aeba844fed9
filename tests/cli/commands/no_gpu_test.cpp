#include <gmock/gmock.h>
#include <unistd.h>

#include "cli/cli_support.h"

// On a machine without a GPU the program starts, says what it lacks, and trains on the CPU; whether CUDA is
// built in or not.

namespace lockstep::test {
namespace {

using testing::AnyOf;
using testing::HasSubstr;
using testing::Not;

bool sees_gpu() {
  return access("/dev/nvidiactl", F_OK) == 0 || access("/dev/dxg", F_OK) == 0;
}

TEST(NoGpu, DoctorSaysWhatIsMissing) {
  if (sees_gpu()) GTEST_SKIP() << "this machine has a GPU";
  const ProcessResult result = lockstep(0, {"doctor"});
  EXPECT_THAT(result.out, HasSubstr("devices: cpu; cuda is "));
  EXPECT_THAT(result.out, AnyOf(HasSubstr("not part of this build ("),
                                HasSubstr("cannot be used here: there is no NVIDIA driver")))
      << result.describe();
}

TEST(NoGpu, LargeLibrariesAreLoadedWhereTheyAreUsedAndNotAtEveryStart) {
  ProcessOptions list;
  list.env["LD_TRACE_LOADED_OBJECTS"] = "1";  // what ldd sets
  const ProcessResult loaded = lockstep(0, {"--version"}, list);
  EXPECT_THAT(loaded.out, HasSubstr("libmpi"));
  EXPECT_THAT(loaded.out, Not(HasSubstr("libcublasLt")));
  EXPECT_THAT(loaded.out, Not(HasSubstr("libnvrtc")));
  const ProcessResult doctor = lockstep(0, {"doctor"});
  if (count(doctor.out, "CUDA runtime") > 0) {
    EXPECT_THAT(doctor.out, testing::ContainsRegex("cuBLASLt [0-9]+\\.[0-9]")) << doctor.describe();
  }
}

TEST(NoGpu, CudaIsRefusedInOneSentenceOnOneRankAndOnSeveral) {
  if (sees_gpu()) GTEST_SKIP() << "this machine has a GPU";
  const TempDir dir;
  std::ofstream(dir.path() + "/a.ini") << small_config();
  for (const int ranks : {0, 1, 2}) {
    const ProcessResult result = lockstep(ranks, {"train", "--config", dir.path() + "/a.ini", "--run.dir",
                                                  dir.path() + "/run", "--device", "cuda"});
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    EXPECT_EQ(count(result.err, "lockstep: error:"), 1) << result.describe();
    EXPECT_THAT(result.err, HasSubstr("device.kind: cuda was asked for, but "));
    EXPECT_THAT(result.err, HasSubstr("use --device cpu or auto"));
    EXPECT_NE(access((dir.path() + "/run").c_str(), F_OK), 0) << "a run directory was made";
  }
}

TEST(NoGpu, AutoTrainsOnTheCpuWithTheSameBits) {
  if (sees_gpu()) GTEST_SKIP() << "this machine has a GPU";
  const TempDir dir;
  std::ofstream(dir.path() + "/a.ini") << small_config();
  std::vector<std::string> digests;
  for (const char* kind : {"auto", "cpu"}) {
    const std::string run = dir.path() + "/" + kind;
    const ProcessResult result = lockstep(1, {"train", "--config", dir.path() + "/a.ini", "--run.dir", run,
                                              "--train.epochs", "1", "--device", kind});
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    digests.push_back(digest(run));
  }
  EXPECT_EQ(digests[0], digests[1]);
}

}  // namespace
}  // namespace lockstep::test
