// A resume with another number of slices: only when asked for by name, said in the log, and then again the
// same bits at any number of ranks.

#include <filesystem>
#include <set>

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

TEST(SlicesChange, OnPurposeOnlyAndThenTheSameAtAnyRankCount) {
  TempDir folder;
  write_file_bytes(folder / "small.ini", small_config());
  const ProcessResult first = lockstep(
      2, {"train", "--config", folder / "small.ini", "--run.dir", folder / "run", "--train.steps", "4"});
  ASSERT_EQ(first.exit_code, 0) << first.describe();
  const std::vector<std::string> resume = {"train",          "--resume", "--train.steps", "7",
                                           "--train.slices", "6",        "--run.dir"};
  const auto resumed = [&](int ranks, const std::string& dir, bool allowed) {
    std::vector<std::string> args = resume;
    args.push_back(folder / dir);
    if (allowed) args.push_back("--allow-slices-change");
    return lockstep(ranks, args);
  };
  const ProcessResult refused = resumed(2, "run", false);
  EXPECT_EQ(refused.exit_code, 2) << refused.describe();
  EXPECT_EQ(count(refused.err, "error"), 1) << refused.err;
  EXPECT_EQ(count(refused.err, "--allow-slices-change"), 1) << refused.err;
  std::set<std::string> digests;
  for (const int ranks : {0, 2, 3}) {
    const std::string dir = "run" + std::to_string(ranks);
    std::filesystem::copy(folder / "run", folder / dir, std::filesystem::copy_options::recursive);
    const ProcessResult result = resumed(ranks, dir, true);
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(count(result.err, "train.slices changes from 12 to 6 with step 5"), 1) << result.describe();
    digests.insert(digest(folder / dir, true));
    // From here on it is a run of 6 slices, and another resume needs no flag.
    const ProcessResult further =
        lockstep(ranks, {"train", "--resume", "--train.steps", "8", "--run.dir", folder / dir});
    EXPECT_EQ(further.exit_code, 0) << further.describe();
    EXPECT_EQ(count(further.err, "train.slices changes"), 0) << further.describe();
    digests.insert(digest(folder / dir, true));
  }
  EXPECT_EQ(digests.size(), 2u);
  // Slices that do not divide the batch are refused as ever, and other keys stay what they are.
  std::vector<std::string> bad = {
      "train", "--resume", "--run.dir", folder / "run", "--allow-slices-change", "--train.slices", "7"};
  EXPECT_EQ(lockstep(0, bad).exit_code, 2);
  bad.back() = "6";
  bad.insert(bad.end(), {"--optimizer.weight_decay", "0.5"});
  const ProcessResult other = lockstep(0, bad);
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_EQ(count(other.err, "optimizer.weight_decay"), 2) << other.err;
}

TEST(SlicesChange, NewSlicesOfOneRowAreRefusedForABatchNormAsInAFreshRun) {
  TempDir folder;
  const std::string run = folder / "run";
  const ProcessResult first =
      lockstep(1, {"train", "--run.dir", run, "--data.format", "synthetic", "--data.samples", "64",
                   "--data.shape", "8", "--data.classes", "3", "--model.layers", "dense:4 bn relu dense:3",
                   "--train.global_batch", "16", "--train.steps", "4", "--train.epochs", "0"});
  ASSERT_EQ(first.exit_code, 0) << first.describe();
  const ProcessResult refused = lockstep(2, {"train", "--resume", "--run.dir", run, "--train.steps", "8",
                                             "--allow-slices-change", "--train.slices", "16"});
  EXPECT_EQ(refused.exit_code, 2) << refused.describe();
  EXPECT_EQ(count(refused.err, "sees one value a channel"), 1) << refused.err;
  const ProcessResult sound = lockstep(2, {"train", "--resume", "--run.dir", run, "--train.steps", "8",
                                           "--allow-slices-change", "--train.slices", "2"});
  EXPECT_EQ(sound.exit_code, 0) << sound.describe();
}

}  // namespace
}  // namespace lockstep::test
