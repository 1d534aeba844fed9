// Training in bf16 on the CPU from the outside: digests, resuming, and processors that lack it.

#include <filesystem>
#include <set>

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

/// What makes the library see a processor without bfloat16.
ProcessOptions without_bf16() {
  ProcessOptions options;
  options.env["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE";
  return options;
}

class Bf16 : public testing::Test {
 protected:
  void SetUp() override {
    std::string text = small_config();
    const std::string layers = "layers = ";
    const std::size_t at = text.find(layers), end = text.find('\n', at);
    // Values in bfloat16 between convolutions and between dense layers, float32 around the others.
    text.replace(at, end - at,
                 layers +
                     "conv:16x3,pad=1 relu conv:16x3,pad=1 bn relu maxpool:2 dropout:0.2 flatten dense:24 "
                     "relu dense:5");
    text.insert(text.find("slices = "), "precision = bf16\n");
    write_file_bytes(config, text);
  }
  static void require_bf16() {
    if (!processor_has_bf16()) LOCKSTEP_SKIP_WITHOUT("bf16", "the processor has no avx512_bf16");
  }
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more = {}) {
    std::vector<std::string> args = {"train", "--config", config, "--run.dir", folder / dir};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  std::string trained(int ranks, const std::string& dir, const std::vector<std::string>& more) {
    const ProcessResult result = lockstep(ranks, train(dir, more));
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    return result.exit_code == 0 ? digest(folder / dir, true) : "";
  }
  TempDir folder;
  const std::string config = folder / "small.ini";
};

#define LOCKSTEP_REQUIRE_BF16() \
  require_bf16();               \
  if (IsSkipped() || HasFailure()) return

TEST_F(Bf16, SameDigestAtAnyPlacementForEachCountOfSlices) {
  LOCKSTEP_REQUIRE_BF16();
  std::set<std::string> different;
  for (const std::string slices : {"3", "12"}) {
    std::set<std::string> same;
    for (const int ranks : {1, 2, 3})
      for (const std::string lanes : {"1", "3"}) {
        const bool small = (ranks == 2) == (lanes == "1");
        same.insert(trained(
            ranks, "r" + std::to_string(ranks) + "l" + lanes + "s" + slices,
            {"--train.slices", slices, "--device.threads", lanes, "--train.epochs", "2", "--train.bucket_mb",
             small ? "0.001" : "25", "--train.overlap", small ? "true" : "false"}));
      }
    EXPECT_EQ(same.size(), 1u) << slices << " slices";
    different.insert(same.begin(), same.end());
  }
  EXPECT_EQ(different.size(), 2u);
  different.insert(
      trained(1, "fp32", {"--train.slices", "12", "--train.epochs", "2", "--train.precision", "fp32"}));
  EXPECT_EQ(different.size(), 3u);
}

TEST_F(Bf16, ResumesToTheSameDigestAndInNoOtherPrecision) {
  LOCKSTEP_REQUIRE_BF16();
  const std::string want = trained(2, "whole", {});
  trained(1, "stopped", {"--train.steps", "5"});
  const std::vector<std::string> resume = {"train",         "--resume", "--run.dir", folder / "stopped",
                                           "--train.steps", "0"};
  std::vector<std::string> other = resume;
  other.insert(other.end(), {"--train.precision", "fp32"});
  const ProcessResult refused = lockstep(1, other);
  EXPECT_EQ(refused.exit_code, 2) << refused.describe();
  EXPECT_EQ(count(refused.err, "train.precision is \"fp32\""), 1) << refused.err;
  const ProcessResult resumed = lockstep(3, resume);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.describe();
  EXPECT_EQ(digest(folder / "stopped", true), want);
}

TEST_F(Bf16, IsShownByTheDryRunAndTheFingerprint) {
  LOCKSTEP_REQUIRE_BF16();
  const ProcessResult plan = lockstep(0, train("never", {"--dry-run"}));
  ASSERT_EQ(plan.exit_code, 0) << plan.describe();
  EXPECT_EQ(count(plan.out, "precision bf16"), 1) << plan.out;
  EXPECT_GT(count(plan.out, "bf16"), 3) << "the kernels' names";
  trained(0, "run", {"--train.steps", "1"});
  std::string checkpoint;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / "run/checkpoints"))
    if (entry.path().filename().string().starts_with("step-")) checkpoint = entry.path().string();
  const ProcessResult shown = lockstep(0, {"inspect", checkpoint});
  EXPECT_EQ(count(shown.out, "precision bf16"), 1) << shown.describe();
}

TEST_F(Bf16, EvaluationAndPredictionComputeInIt) {
  LOCKSTEP_REQUIRE_BF16();
  trained(1, "run", {"--train.epochs", "1"});
  std::set<std::string> answers;
  for (const int ranks : {1, 2, 3}) {
    const ProcessResult result = lockstep(ranks, {"evaluate", "--run", folder / "run"});
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    answers.insert(result.out);
  }
  EXPECT_EQ(answers.size(), 1u);
  const ProcessResult refused =
      run_process({LOCKSTEP_PROGRAM, "evaluate", "--run", folder / "run"}, without_bf16());
  EXPECT_EQ(refused.exit_code, 2) << refused.describe();
  EXPECT_EQ(count(refused.err, "train.precision = bf16"), 1) << refused.err;
}

TEST_F(Bf16, AProcessorThatLacksItIsRefusedBeforeTraining) {
  for (const int ranks : {0, 2}) {
    const std::string dir = "refused" + std::to_string(ranks);
    const ProcessResult result = lockstep(ranks, train(dir), without_bf16());
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    EXPECT_EQ(count(result.err, "train.precision = bf16: the processor of "), 1) << result.err;
    EXPECT_EQ(count(result.err, "use fp32"), 1) << result.err;
    EXPECT_FALSE(std::filesystem::exists(folder / dir));
  }
}

TEST_F(Bf16, OtherPrecisionsAreRefusedOnTheCpu) {
  for (const std::string precision : {"tf32", "fp16"}) {
    const ProcessResult result = lockstep(0, train("never", {"--train.precision", precision}));
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    EXPECT_EQ(count(result.err, "the CPU computes in fp32 and bf16 only"), 1) << result.err;
  }
}

}  // namespace
}  // namespace lockstep::test
