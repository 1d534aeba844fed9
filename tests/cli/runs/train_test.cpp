// The main job from the outside: files, digests at any rank count, resuming, the other commands.

#include <filesystem>
#include <set>

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

class Train : public testing::Test {
 protected:
  void SetUp() override { write_file_bytes(config, small_config()); }
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more = {}) {
    std::vector<std::string> args = {"train", "--config", config, "--run.dir", folder / dir};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  TempDir folder;
  const std::string config = folder / "small.ini";
};

TEST_F(Train, SameDigestAndMetricsAtAnyRankCountAndTheTableOnce) {
  std::set<std::string> digests, metrics;
  for (const int ranks : {0, 1, 2, 3, 4}) {
    const std::string dir = "run" + std::to_string(ranks);
    const ProcessResult result =
        lockstep(ranks, train(dir, {"--device.threads", std::to_string(1 + ranks % 3)}));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(count(result.out, "host"), 1) << result.out;
    EXPECT_EQ(count(result.out, "macro"), 1) << result.out;
    for (const char* file :
         {"config.resolved.ini", "metrics.jsonl", "model.safetensors", "best.safetensors", "checkpoints"})
      EXPECT_TRUE(std::filesystem::exists(folder / dir + "/" + file)) << file;
    digests.insert(digest(folder / dir) + digest(folder / dir, true));
    std::string told;
    for (nlohmann::json line : json_lines(folder / dir + "/metrics.jsonl")) {
      for (const char* key : {"time", "samples_per_second"}) line.erase(key);
      if (line["kind"] != "timing") told += line.dump() + "\n";
    }
    EXPECT_GT(count(told, "\"kind\":\"train\""), 2);
    EXPECT_EQ(count(told, "\"kind\":\"epoch\""), 4);
    EXPECT_EQ(count(told, "\"kind\":\"test\""), 1);
    metrics.insert(told);
  }
  EXPECT_EQ(digests.size(), 1u);
  EXPECT_EQ(metrics.size(), 1u);
}

TEST_F(Train, StoppedAndResumedOnOtherRankCountsEndsInTheSameDigest) {
  ASSERT_EQ(lockstep(2, train("whole")).exit_code, 0);
  const std::string want = digest(folder / "whole", true);
  // Three steps are an epoch: stops in the middle of an epoch (2, 7) and at its end (3).
  for (const std::vector<int>& plan : {std::vector<int>{1, 2, 3}, {3, 7, 1}, {4, 3, 2}}) {
    const std::string dir = "stop" + std::to_string(plan[1]);
    ASSERT_EQ(lockstep(plan[0], train(dir, {"--train.steps", std::to_string(plan[1])})).exit_code, 0);
    const ProcessResult resumed = lockstep(plan[2], {"train", "--resume", "--run.dir", folder / dir,
                                                     "--train.steps", "0", "--device.threads", "2"});
    ASSERT_EQ(resumed.exit_code, 0) << resumed.describe();
    EXPECT_EQ(count(resumed.err, "resuming from"), 1) << resumed.err;
    EXPECT_EQ(digest(folder / dir, true), want) << plan[1];
    EXPECT_EQ(digest(folder / dir), digest(folder / "whole"));
    std::vector<std::string> told[2];
    for (int i = 0; i < 2; ++i)
      for (nlohmann::json line :
           json_lines(folder / (i == 0 ? std::string("whole") : dir) + "/metrics.jsonl")) {
        for (const char* key : {"time", "samples_per_second"}) line.erase(key);
        if (line["kind"] == "epoch") told[i].push_back(line.dump());
      }
    EXPECT_EQ(told[0], told[1]) << "means over an epoch that was interrupted";
  }
}

TEST_F(Train, AnotherSeedOrConfigChangesTheDigest) {
  ASSERT_EQ(lockstep(1, train("a")).exit_code, 0);
  ASSERT_EQ(lockstep(1, train("b", {"--run.seed", "2"})).exit_code, 0);
  EXPECT_NE(digest(folder / "a"), digest(folder / "b"));
}

TEST_F(Train, ARunIsNeverOverwrittenUnasked) {
  ASSERT_EQ(lockstep(1, train("a", {"--train.epochs", "1"})).exit_code, 0);
  const std::string before = digest(folder / "a");
  const ProcessResult again = lockstep(2, train("a", {"--train.epochs", "2"}));
  EXPECT_EQ(again.exit_code, 2) << again.describe();
  EXPECT_NE(again.err.find("--overwrite"), std::string::npos);
  EXPECT_NE(again.err.find("--resume"), std::string::npos);
  EXPECT_EQ(digest(folder / "a"), before);
  EXPECT_EQ(lockstep(2, train("a", {"--train.epochs", "2", "--overwrite"})).exit_code, 0);
  EXPECT_NE(digest(folder / "a"), before);
}

TEST_F(Train, AResumeMayChangePlacementAndLengthOnly) {
  ASSERT_EQ(lockstep(1, train("a", {"--train.steps", "2"})).exit_code, 0);
  for (const std::vector<std::string>& change :
       {std::vector<std::string>{"--optimizer.lr", "0.5"},
        {"--train.global_batch", "24"},
        {"--run.seed", "9"},
        {"--model.layers", "conv:16x3,pad=1 bn relu maxpool:2 dropout:0.2 flatten dense:6 relu dense:5"}}) {
    std::vector<std::string> args = {"train", "--resume", "--run.dir", folder / "a"};
    args.insert(args.end(), change.begin(), change.end());
    const ProcessResult result = lockstep(2, args);
    EXPECT_EQ(result.exit_code, 2) << change[0] << result.describe();
    EXPECT_NE(result.err.find(change[0].substr(2)), std::string::npos) << result.err;
  }
  EXPECT_EQ(
      lockstep(3, {"train", "--resume", "--run.dir", folder / "a", "--train.steps", "4", "--train.bucket_mb",
                   "0.02", "--optimizer.sharded", "false", "--train.overlap", "false"})
          .exit_code,
      0);
}

TEST_F(Train, ABadCheckpointIsNamedAndTheOlderOneTaken) {
  ASSERT_EQ(lockstep(2, train("whole", {"--train.epochs", "3"})).exit_code, 0);
  ASSERT_EQ(lockstep(2, train("a", {"--train.epochs", "3", "--train.steps", "6"})).exit_code, 0);
  const std::string newest =
      folder / "a/checkpoints/gen-000001/step-000000006/model-00001-of-00002.safetensors";
  std::string bytes = read_file_bytes(newest);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
  write_file_bytes(newest, bytes);
  const ProcessResult result =
      lockstep(2, {"train", "--resume", "--run.dir", folder / "a", "--train.steps", "0"});
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_NE(result.err.find("step-000000006"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("step 3"), std::string::npos) << result.err;
  EXPECT_EQ(digest(folder / "a", true), digest(folder / "whole", true));
}

TEST_F(Train, AnotherKindOfMachineIsRefusedUnlessAllowed) {
  ASSERT_EQ(lockstep(1, train("a", {"--train.steps", "2"})).exit_code, 0);
  ProcessOptions other;  // kernels of another instruction set: other last bits
  other.env["ONEDNN_MAX_CPU_ISA"] = "SSE41";
  const ProcessResult refused =
      lockstep(2, {"train", "--resume", "--run.dir", folder / "a", "--train.steps", "4"}, other);
  EXPECT_EQ(refused.exit_code, 2) << refused.describe();
  EXPECT_EQ(count(refused.err, "lockstep: error"), 1) << refused.err;
  EXPECT_NE(refused.err.find("instruction set"), std::string::npos) << refused.err;
  EXPECT_NE(refused.err.find("--allow-numeric-change"), std::string::npos) << refused.err;
  EXPECT_EQ(
      lockstep(
          2, {"train", "--resume", "--run.dir", folder / "a", "--train.steps", "4", "--allow-numeric-change"},
          other)
          .exit_code,
      0);
}

TEST_F(Train, DryRunPrintsThePlanAndWritesNothing) {
  const ProcessResult result = lockstep(3, train("dry", {"--dry-run"}));
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  for (const char* part : {"conv1", "16x12x12", "FLOPs", "in 1 bucket of", "k = ", "memory"})
    EXPECT_NE(result.out.find(part), std::string::npos) << part << result.out;
  EXPECT_FALSE(std::filesystem::exists(folder / "dry"));
}

TEST_F(Train, EvaluatePredictExportInspect) {
  ASSERT_EQ(lockstep(2, train("a")).exit_code, 0);
  double test_accuracy = -1;
  for (const auto& line : json_lines(folder / "a/metrics.jsonl"))
    if (line["kind"] == "test") test_accuracy = line["accuracy"];
  std::set<std::string> outputs;
  for (const int ranks : {0, 1, 2, 3}) {
    const ProcessResult result = lockstep(ranks, {"evaluate", "--run", folder / "a"});
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    outputs.insert(result.out);
    EXPECT_NE(result.out.find("13 samples"), std::string::npos) << result.out;
    char text[32];
    std::snprintf(text, sizeof text, "accuracy %.4f", test_accuracy);
    EXPECT_NE(result.out.find(text), std::string::npos) << result.out;
  }
  EXPECT_EQ(outputs.size(), 1u);
  EXPECT_EQ(lockstep(2, {"evaluate", "--run", folder / "a", "--weights", "best", "--split", "validation"})
                .exit_code,
            0);

  ASSERT_EQ(lockstep(0, {"export", "--run", folder / "a", "--format", "safetensors", "--output",
                         folder / "m.safetensors"})
                .exit_code,
            0);
  EXPECT_EQ(digest(folder / "m.safetensors"), digest(folder / "a"));
  const ProcessResult shown = lockstep(0, {"inspect", folder / "m.safetensors"});
  EXPECT_NE(shown.out.find("conv1.weight"), std::string::npos) << shown.describe();
  EXPECT_NE(shown.out.find("bn1.running_mean"), std::string::npos);
  EXPECT_EQ(lockstep(0, {"inspect", folder / "a"}).exit_code, 0);
}

TEST_F(Train, MoreRanksThanSamplesAndRanksWithNothingToDo) {
  std::set<std::string> digests;
  for (const int ranks : {1, 4}) {
    const std::string dir = "few" + std::to_string(ranks);
    const ProcessResult result =
        lockstep(ranks, {"train", "--run.dir", folder / dir, "--data.format", "synthetic", "--data.samples",
                         "3", "--data.shape", "1x6x6", "--data.classes", "2", "--model.layers",
                         "conv:8x3 bn relu flatten dense:2", "--train.epochs", "5", "--train.global_batch",
                         "8", "--train.slices", "8"});
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    digests.insert(digest(folder / dir, true));
  }
  EXPECT_EQ(digests.size(), 1u);
}

TEST_F(Train, TooLittleSharedMemoryFallsBackWithOneWarning) {
  ASSERT_EQ(lockstep(1, train("a", {"--train.steps", "4"})).exit_code, 0);
  ProcessOptions options;
  options.env["LOCKSTEP_SHM_LIMIT_BYTES"] = "1000";
  const ProcessResult result = lockstep(3, train("b", {"--train.steps", "4"}), options);
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(count(result.err, "warning: /dev/shm"), 1) << result.err;
  EXPECT_EQ(digest(folder / "a", true), digest(folder / "b", true));
}

TEST_F(Train, ADivergingRunEndsWithThreeAndSaysWhich) {
  for (const int ranks : {1, 3}) {
    const ProcessResult result = lockstep(ranks, {"train",
                                                  "--run.dir",
                                                  folder / ("d" + std::to_string(ranks)),
                                                  "--data.format",
                                                  "synthetic",
                                                  "--data.samples",
                                                  "64",
                                                  "--data.shape",
                                                  "20",
                                                  "--data.classes",
                                                  "3",
                                                  "--model.layers",
                                                  "dense:50 relu dense:50 relu dense:3",
                                                  "--train.epochs",
                                                  "50",
                                                  "--train.global_batch",
                                                  "16",
                                                  "--train.slices",
                                                  "4",
                                                  "--optimizer.lr",
                                                  "1e6"});
    EXPECT_EQ(result.exit_code, 3) << result.describe();
    EXPECT_EQ(count(result.err, "lockstep: error"), 1) << result.err;
  }
}

}  // namespace
}  // namespace lockstep::test
