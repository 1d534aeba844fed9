// Saves at the ends of epochs, where checkpoint and best weights are one save: a kill at any of its calls
// loses neither.

#include <filesystem>

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

#ifdef FAULT_INJECTION
TEST(EpochSaves, AKillAtACallOfASaveLosesNeitherCheckpointNorBestWeights) {
  TempDir folder;
  write_file_bytes(folder / "tiny.ini", R"(
[model]
layers = dense:8 relu dense:3
[data]
format = synthetic
samples = 44
shape = 8
classes = 3
validation_fraction = 0.1
[train]
epochs = 3
global_batch = 8
slices = 4
best = loss
[optimizer]
lr = 0.0001
)");
  const auto train = [&](const std::string& dir, int at) {
    ProcessOptions options;
    if (at >= 0)
      options.env = {{"LD_PRELOAD", FAULT_INJECTION},
                     {"LOCKSTEP_FAULT_DIR", folder / dir + "/checkpoints"},
                     {"LOCKSTEP_FAULT_AT", std::to_string(at)},
                     {"LOCKSTEP_FAULT_KIND", at == 0 ? "" : "kill"},
                     {"LOCKSTEP_FAULT_RANK", "0"}};
    if (at == 0) options.env["LOCKSTEP_FAULT_LOG"] = folder / "calls.txt";
    return lockstep(0, {"train", "--config", folder / "tiny.ini", "--run.dir", folder / dir}, options);
  };
  const auto digests = [&](const std::string& dir) {
    return digest(folder / dir, true) + digest(folder / dir + "/best.safetensors");
  };
  ASSERT_EQ(train("whole", -1).exit_code, 0);
  ASSERT_EQ(train("counted", 0).exit_code, 0);
  const std::string calls = read_file_bytes(folder / "calls.txt");
  const int all = count(calls, "\n");
  ASSERT_GT(all, 20) << calls;
  ASSERT_GT(count(calls, "saving-best-000000005"), 0) << calls;
  int resumed = 0;
  for (int at = 2; at <= all; at += 4) {
    const std::string dir = "killed" + std::to_string(at);
    if (train(dir, at).exit_code != 0) {
      const ProcessResult further = lockstep(0, {"train", "--resume", "--run.dir", folder / dir});
      // Before the first checkpoint there is nothing to go on from.
      if (further.exit_code == 2 &&
          count(further.err, "holds no run") + count(further.err, "there is no whole checkpoint") == 1)
        continue;
      ASSERT_EQ(further.exit_code, 0) << at << further.describe();
      ++resumed;
    }
    EXPECT_EQ(digests(dir), digests("whole")) << "killed at call " << at << " of " << all;
  }
  EXPECT_GT(resumed, 2);
}
#endif

}  // namespace
}  // namespace lockstep::test
