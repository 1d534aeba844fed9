// A validation that is configured is made, also where the training ends within an epoch; which weights are
// the best; batch norm in slices of one row; slices for three ranks.

#include <filesystem>
#include <set>

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

class ValidationEnd : public ::testing::Test {
 protected:
  ValidationEnd() { write_file_bytes(folder / "small.ini", small_config()); }
  ProcessResult train(int ranks, const std::string& dir, const std::vector<std::string>& more = {}) {
    std::vector<std::string> args = {"train", "--config", folder / "small.ini", "--run.dir", folder / dir};
    args.insert(args.end(), more.begin(), more.end());
    return lockstep(ranks, args);
  }
  std::vector<nlohmann::json> lines_of(const std::string& dir, const std::string& kind) {
    std::vector<nlohmann::json> found;
    for (nlohmann::json& line : json_lines(folder / dir + "/metrics.jsonl"))
      if (line["kind"] == kind) found.push_back(std::move(line));
    return found;
  }
  TempDir folder;
};

TEST_F(ValidationEnd, ATrainingThatEndsWithinAnEpochIsValidated) {
  std::set<std::string> best;
  for (const int ranks : {0, 3}) {
    const std::string dir = "two" + std::to_string(ranks);
    const ProcessResult result = train(ranks, dir, {"--train.steps", "2"});
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    const auto ends = lines_of(dir, "end");
    ASSERT_EQ(ends.size(), 1u);
    EXPECT_EQ(ends[0]["step"], 2);
    EXPECT_TRUE(ends[0]["validation_loss"].is_number());
    EXPECT_EQ(count(result.out, "step 2/2  loss "), 1) << result.out;
    EXPECT_EQ(count(result.out, "best weights: of step 2, validation accuracy "), 1) << result.out;
    best.insert(digest(folder / dir + "/best.safetensors"));
    const ProcessResult evaluated =
        lockstep(1, {"evaluate", "--run", folder / dir, "--weights", "best", "--split", "validation"});
    EXPECT_EQ(evaluated.exit_code, 0) << evaluated.describe();
  }
  EXPECT_EQ(best.size(), 1u);
  // Behind the last whole epoch, too.
  ASSERT_EQ(train(2, "five", {"--train.steps", "5"}).exit_code, 0);
  EXPECT_EQ(lines_of("five", "epoch").size(), 1u);
  ASSERT_EQ(lines_of("five", "end").size(), 1u);
  EXPECT_EQ(lines_of("five", "end")[0]["step"], 5);
  // A whole epoch is not validated twice.
  ASSERT_EQ(train(2, "six", {"--train.steps", "6"}).exit_code, 0);
  EXPECT_EQ(lines_of("six", "epoch").size(), 2u);
  EXPECT_EQ(lines_of("six", "end").size(), 0u);
}

TEST_F(ValidationEnd, AValidationWithinAnEpochChangesNoBitOfWhatFollows) {
  ASSERT_EQ(train(1, "whole").exit_code, 0);
  ASSERT_EQ(train(2, "run", {"--train.steps", "5"}).exit_code, 0);
  ASSERT_EQ(lockstep(3, {"train", "--resume", "--run.dir", folder / "run", "--train.steps", "0"}).exit_code,
            0);
  EXPECT_EQ(digest(folder / "run", true), digest(folder / "whole", true));
}

TEST_F(ValidationEnd, BestMayGoByLossAndTheManifestNamesTheMetric) {
  for (const std::string by : {"auto", "loss"}) {
    ASSERT_EQ(train(2, by, {"--train.best", by}).exit_code, 0);
    const auto epochs = lines_of(by, "epoch");
    ASSERT_EQ(epochs.size(), 4u);
    const auto better = [&](const nlohmann::json& a, const nlohmann::json& b) {
      const double la = a["validation_loss"], lb = b["validation_loss"];
      const double aa = a["validation_accuracy"], ab = b["validation_accuracy"];
      return by == "loss" ? la < lb : aa > ab || (aa == ab && la < lb);
    };
    const nlohmann::json* best = &epochs[0];
    for (const nlohmann::json& e : epochs)
      if (better(e, *best)) best = &e;
    std::string newest;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / by + "/checkpoints"))
      if (entry.path().string().find("/step-") != std::string::npos &&
          entry.path().filename() == "manifest.json")
        newest = std::max(newest, entry.path().string());
    const nlohmann::json manifest = nlohmann::json::parse(read_file_bytes(newest));
    EXPECT_EQ(manifest["best"]["step"], (*best)["step"]) << by;
    EXPECT_EQ(manifest["best"]["name"], by == "loss" ? "loss" : "accuracy");
    EXPECT_EQ(manifest["best"]["loss"], (*best)["validation_loss"]);
    const std::string inspected = lockstep(0, {"inspect", newest.substr(0, newest.rfind('/'))}).out;
    EXPECT_EQ(count(inspected, by == "loss" ? "best validation: loss " : "best validation: accuracy "), 1)
        << inspected;
  }
  const ProcessResult refused =
      lockstep(0, {"train", "--resume", "--run.dir", folder / "auto", "--train.best", "loss",
                   "--train.epochs", "5", "--schedule.steps", "15"});
  EXPECT_EQ(refused.exit_code, 2) << "bests of two metrics cannot be compared: " << refused.describe();
}

TEST_F(ValidationEnd, EpochsOfMillisecondsDoNotWaitForTheirCheckpoints) {
  write_file_bytes(folder / "tiny.ini", R"(
[model]
layers = dense:128 relu dense:128 relu dense:3
[data]
format = synthetic
samples = 44
shape = 8
classes = 3
validation_fraction = 0.1
[train]
epochs = 30
global_batch = 8
slices = 4
best = loss
[optimizer]
lr = 0.0001
[log]
timeline = true
)");
  std::set<std::string> digests, best;
  for (const int ranks : {0, 2, 3}) {
    const std::string dir = folder / ("tiny" + std::to_string(ranks));
    const ProcessResult result =
        lockstep(ranks, {"train", "--config", folder / "tiny.ini", "--run.dir", dir});
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    digests.insert(digest(dir));
    best.insert(digest(dir + "/best.safetensors"));
    // Every epoch would have a save; those that came while one was being written were left out.
    int saves = 0;
    for (const auto& line : json_lines(dir + "/timeline.rank0.jsonl"))
      if (line.value("kind", "") == "save") ++saves;
    EXPECT_GE(saves, 2);
    EXPECT_LT(saves, 30);
    EXPECT_EQ(lockstep(0, {"train", "--resume", "--run.dir", dir}).exit_code, 0);
  }
  EXPECT_EQ(digests.size(), 1u);
  EXPECT_EQ(best.size(), 1u) << "the best weights are those of their step, whenever they were written";
}

TEST_F(ValidationEnd, WithoutBestWeightsTheReasonIsTrue) {
  const auto reason = [&](const std::string& dir) {
    const ProcessResult result = lockstep(0, {"evaluate", "--run", folder / dir, "--weights", "best"});
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    return result.err;
  };
  ASSERT_EQ(train(1, "none", {"--data.validation_fraction", "0", "--train.steps", "2"}).exit_code, 0);
  EXPECT_EQ(count(reason("none"), "when a validation split is configured"), 1);
  // A run that was stopped before its first validation.
  ASSERT_EQ(train(1, "early", {"--checkpoint.every_steps", "1", "--checkpoint.keep", "20"}).exit_code, 0);
  std::filesystem::remove(folder / "early/best.safetensors");
  std::filesystem::remove(folder / "early/model.safetensors");
  std::vector<std::filesystem::path> late;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "early/checkpoints/gen-000001"))
    if (entry.path().filename().string().find("000000001") == std::string::npos) late.push_back(entry.path());
  for (const auto& path : late) std::filesystem::remove_all(path);
  EXPECT_EQ(count(reason("early"), "no validation up to step 1"), 1) << reason("early");
}

TEST_F(ValidationEnd, BatchNormOverOneValueIsRefusedAndInTheLastBatchToldOf) {
  const auto dense = [&](const std::string& dir, const std::vector<std::string>& more) {
    std::vector<std::string> args = {"train",
                                     "--run.dir",
                                     folder / dir,
                                     "--model.layers",
                                     "flatten dense:8 bn relu dense:3",
                                     "--data.format",
                                     "synthetic",
                                     "--data.shape",
                                     "6",
                                     "--data.classes",
                                     "3",
                                     "--train.epochs",
                                     "1"};
    args.insert(args.end(), more.begin(), more.end());
    return lockstep(2, args);
  };
  const ProcessResult refused =
      dense("a", {"--data.samples", "64", "--train.global_batch", "16", "--train.slices", "16"});
  EXPECT_EQ(refused.exit_code, 2) << refused.describe();
  EXPECT_EQ(count(refused.err, "sees one value a channel"), 1) << refused.err;
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
  const std::vector<std::string> uneven = {"--data.samples", "69", "--train.global_batch", "32"};
  const ProcessResult chosen = dense("d", uneven);
  EXPECT_EQ(chosen.exit_code, 0) << chosen.describe();
  EXPECT_EQ(count(chosen.err, "the last batch of each epoch"), 0) << "the default is sound: " << chosen.err;
  std::vector<std::string> asked = uneven;
  asked.insert(asked.end(), {"--train.slices", "4"});
  const ProcessResult last = dense("b", asked);
  EXPECT_EQ(last.exit_code, 0) << last.describe();
  EXPECT_EQ(count(last.err, "the last batch of each epoch has 5 samples in 4 slices"), 1) << last.err;
  const ProcessResult good = dense("c", {"--data.samples", "64", "--train.global_batch", "16"});
  EXPECT_EQ(good.exit_code, 0) << good.describe();
  EXPECT_EQ(count(good.err, "warning"), 0) << good.err;
}

TEST_F(ValidationEnd, TheDefaultSlicesSuitOneToFourRanksAndMoreAreRefusedWithWhatWouldDo) {
  for (const std::string layers : {"flatten dense:8 relu dense:3", "conv:4x3 bn relu flatten dense:3"}) {
    std::set<std::string> digests;
    const auto run = [&](int ranks, const std::string& dir) {
      return lockstep(ranks, {"train", "--run.dir", folder / dir, "--overwrite", "--model.layers", layers,
                              "--data.format", "synthetic", "--data.shape", "1x6x6", "--data.classes", "3",
                              "--data.samples", "90", "--train.epochs", "1"});
    };
    for (const int ranks : {1, 2, 3, 4}) {
      const ProcessResult result = run(ranks, "run");
      ASSERT_EQ(result.exit_code, 0) << result.describe();
      digests.insert(digest(folder / "run", true));
    }
    EXPECT_EQ(digests.size(), 1u) << layers;
    const ProcessResult refused = run(5, "five");
    EXPECT_EQ(refused.exit_code, 2) << refused.describe();
    EXPECT_EQ(count(refused.err, "8, 16, 32 would do"), 1) << refused.err;
    EXPECT_EQ(count(refused.err, "this changes the result"), 1) << refused.err;
  }
}

}  // namespace
}  // namespace lockstep::test
