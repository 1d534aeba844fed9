// Images that vary from epoch to epoch, from the outside: the same digest at any placement and across a stop,
// and nobody but training sees them.

#include <filesystem>
#include <set>

#include "cli/cli_data.h"

namespace lockstep::test {
namespace {

class Augmented : public testing::Test {
 protected:
  void SetUp() override { write_file_bytes(config, small_config()); }
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more = {}) {
    std::vector<std::string> args = {"train",      "--config",    config, "--run.dir",
                                     folder / dir, "--data.flip", "true", "--data.crop_padding",
                                     "2"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  void trained(int ranks, const std::string& dir, const std::vector<std::string>& more = {}) {
    const ProcessResult result = lockstep(ranks, train(dir, more));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
  }
  TempDir folder;
  const std::string config = folder / "small.ini";
};

TEST_F(Augmented, ARunStoppedInMidEpochEndsInTheDigestOfAnUnbrokenOne) {
  trained(2, "whole");
  const std::string want = digest(folder / "whole", true);
  // Three steps are an epoch, so 4 and 8 are in the middle of one.
  for (const std::vector<int>& plan : {std::vector<int>{1, 4, 3}, {3, 8, 1}}) {
    const std::string dir = "stop" + std::to_string(plan[1]);
    trained(plan[0], dir, {"--train.steps", std::to_string(plan[1]), "--data.workers", "0"});
    EXPECT_NE(digest(folder / dir, true), want);
    const ProcessResult resumed = lockstep(plan[2], {"train", "--resume", "--run.dir", folder / dir,
                                                     "--train.steps", "0", "--device.threads", "2"});
    ASSERT_EQ(resumed.exit_code, 0) << resumed.describe();
    EXPECT_EQ(digest(folder / dir, true), want) << plan[1];
  }
}

TEST_F(Augmented, EachKeyChangesTheDigestAndBelongsToWhatAResumeKeeps) {
  std::set<std::string> digests;
  const std::vector<std::vector<std::string>> kinds = {{},
                                                       {"--data.flip", "false"},
                                                       {"--data.crop_padding", "0"},
                                                       {"--data.crop_padding", "3"},
                                                       {"--data.flip", "false", "--data.crop_padding", "0"}};
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    std::vector<std::string> args = {"train", "--config", config, "--run.dir",
                                     folder / ("kind" + std::to_string(i))};
    std::map<std::string, std::string> keys = {{"--data.flip", "true"}, {"--data.crop_padding", "2"}};
    for (std::size_t k = 0; k + 1 < kinds[i].size(); k += 2) keys[kinds[i][k]] = kinds[i][k + 1];
    for (const auto& [key, value] : keys) args.insert(args.end(), {key, value});
    args.insert(args.end(), {"--train.steps", "4"});
    const ProcessResult result = lockstep(1, args);
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    digests.insert(digest(folder / ("kind" + std::to_string(i))));
  }
  EXPECT_EQ(digests.size(), kinds.size());
  // Switched off is what it is without the keys.
  ASSERT_EQ(lockstep(1, {"train", "--config", config, "--run.dir", folder / "bare", "--train.steps", "4"})
                .exit_code,
            0);
  EXPECT_TRUE(digests.contains(digest(folder / "bare")));
  for (const int ranks : {0, 3}) {
    expect_refusal(lockstep(ranks,
                            {"train", "--resume", "--run.dir", folder / "kind0", "--train.steps", "0",
                             "--data.flip", "false"},
                            in_time()),
                   {"--data.flip", "false", "was started with \"true\"", "--resume"});
    expect_refusal(lockstep(ranks,
                            {"train", "--resume", "--run.dir", folder / "kind0", "--train.steps", "0",
                             "--data.crop_padding", "3"},
                            in_time()),
                   {"--data.crop_padding", "was started with \"2\"", "--resume"});
  }
}

// The same weights are evaluated alike by a config that augments and by one that does not; nor do other
// commands take the keys.
TEST_F(Augmented, NobodyButTrainingSeesVariedImages) {
  trained(2, "run", {"--train.steps", "6"});
  std::filesystem::copy(folder / "run", folder / "plain", std::filesystem::copy_options::recursive);
  std::string text = read_file_bytes(folder / "plain/config.resolved.ini");
  for (const auto& [key, value] :
       {std::pair("flip = true", "flip = false"), std::pair("crop_padding = 2", "crop_padding = 0")}) {
    const std::size_t at = text.find(key);
    ASSERT_NE(at, std::string::npos) << text;
    text.replace(at, std::string(key).size(), value);
  }
  write_file_bytes(folder / "plain/config.resolved.ini", text);
  for (const char* split : {"train", "validation", "test"}) {
    const ProcessResult varied = lockstep(2, {"evaluate", "--run", folder / "run", "--split", split});
    const ProcessResult plain = lockstep(1, {"evaluate", "--run", folder / "plain", "--split", split});
    ASSERT_EQ(varied.exit_code, 0) << varied.describe();
    EXPECT_EQ(varied.out, plain.out);
    EXPECT_EQ(count(varied.out, "loss"), 1) << varied.out;
  }
  // What training itself says of the test split.
  const auto lines = json_lines(folder / "run/metrics.jsonl");
  const auto test =
      std::find_if(lines.begin(), lines.end(), [](const auto& l) { return l["kind"] == "test"; });
  ASSERT_NE(test, lines.end());
  char loss[32];
  std::snprintf(loss, sizeof loss, "loss %.4f", (*test)["loss"].get<double>());
  EXPECT_EQ(count(lockstep(1, {"evaluate", "--run", folder / "plain"}).out, loss), 1) << loss;
  expect_refusal(lockstep(1, {"evaluate", "--run", folder / "run", "--data.flip", "true"}, in_time()),
                 {"data.flip"});
}

// The check loads its slice again, on another rank.
TEST_F(Augmented, SlicesThatAreComputedTwiceAreVariedAlike) {
  trained(1, "one", {"--train.steps", "5"});
  for (const int ranks : {1, 3}) {
    const std::string dir = "checked" + std::to_string(ranks);
    trained(ranks, dir, {"--train.steps", "5", "--check.recompute_every", "1"});
    EXPECT_EQ(digest(folder / dir), digest(folder / "one"));
  }
}

TEST_F(Augmented, IsShownByTheDryRunTheResolvedConfigAndInspect) {
  const ProcessResult dry = lockstep(2, train("run", {"--dry-run"}));
  ASSERT_EQ(dry.exit_code, 0) << dry.describe();
  EXPECT_EQ(
      count(dry.out,
            "training images: cropped out of 2 pixels of padding, mirrored with probability 1/2, by the "
            "loader's threads\n"),
      1)
      << dry.out;
  trained(1, "run", {"--train.steps", "3"});
  const std::string resolved = read_file_bytes(folder / "run/config.resolved.ini");
  EXPECT_EQ(count(resolved, "flip = true"), 1) << resolved;
  EXPECT_EQ(count(resolved, "crop_padding = 2"), 1) << resolved;
  for (const auto& checkpoint : std::filesystem::recursive_directory_iterator(folder / "run/checkpoints")) {
    if (checkpoint.path().filename() != "manifest.json") continue;
    const ProcessResult shown = lockstep(0, {"inspect", checkpoint.path().parent_path()});
    EXPECT_EQ(count(shown.out, "flip = true"), 1) << shown.describe();
    EXPECT_EQ(count(shown.out, "crop_padding = 2"), 1) << shown.describe();
    return;
  }
  ADD_FAILURE() << "no checkpoint";
}

}  // namespace
}  // namespace lockstep::test
