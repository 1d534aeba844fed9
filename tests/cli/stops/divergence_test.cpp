// Runs that diverge: values of the data that overflow in the model, and losses that jump.

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <set>

#include "core/file.h"

#include "cli/cli_data.h"

namespace lockstep::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

/// 96 rows of eight features and one of three classes; those in `huge` hold +-`value`, which overflows where
/// the columns are summed up.
std::string rows_with(const std::set<int>& huge, const char* value) {
  std::string text = "a,b,c,d,e,f,g,h,y\n";
  unsigned state = 1;
  for (int i = 0; i < 96; ++i) {
    for (int k = 0; k < 8; ++k) {
      state = state * 1103515245u + 12345u;
      text += huge.count(i) ? fmt::format("{}{},", k % 2 ? "-" : "", value)
                            : fmt::format("{:.4f},", (state >> 16 & 0x7fff) / 16384.0 - 1);
    }
    text += fmt::format("{}\n", i % 3);
  }
  return text;
}

/// All values of a weight file, one tensor behind the other.
std::vector<float> weights_in(const std::string& path) {
  const std::string bytes = read_file(path);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const std::size_t begin = sizeof header + header;
  std::vector<float> values((bytes.size() - begin) / sizeof(float));
  std::memcpy(values.data(), bytes.data() + begin, values.size() * sizeof(float));
  return values;
}

class Divergence : public testing::Test {
 protected:
  ProcessResult train(int ranks, const std::string& run, const std::vector<std::string>& more = {},
                      const std::string& layers = "dense:16 relu dense:3") {
    std::vector<std::string> args = {"train",
                                     "--model.layers",
                                     layers,
                                     "--data.format",
                                     "csv",
                                     "--data.train",
                                     data_,
                                     "--data.normalize",
                                     "none",
                                     "--train.epochs",
                                     "3",
                                     "--train.global_batch",
                                     "16",
                                     "--train.slices",
                                     "4",
                                     "--optimizer.name",
                                     "adam",
                                     "--optimizer.lr",
                                     "0.01",
                                     "--checkpoint.every_steps",
                                     "4",
                                     "--run.dir",
                                     dir_.path() + "/" + run};
    args.insert(args.end(), more.begin(), more.end());
    return lockstep(ranks, args, {.timeout_s = 120});
  }
  ProcessResult resume(int ranks, const std::string& run, const std::vector<std::string>& more = {}) {
    std::vector<std::string> args = {"train", "--resume", "--run.dir", dir_.path() + "/" + run};
    args.insert(args.end(), more.begin(), more.end());
    return lockstep(ranks, args, {.timeout_s = 120});
  }
  void write(const std::string& text) { write_file_atomic(data_, text); }
  std::string run_digest(const std::string& run) { return digest(dir_.path() + "/" + run, true); }
  std::vector<nlohmann::json> events(const std::string& run, const std::string& kind) {
    std::vector<nlohmann::json> out;
    for (nlohmann::json& line : json_lines(dir_.path() + "/" + run + "/metrics.jsonl"))
      if (line["kind"] == kind) out.push_back(std::move(line));
    return out;
  }
  /// The text of the manifest of the newest checkpoint.
  std::string newest_manifest(const std::string& run) {
    std::string newest;
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(dir_.path() + "/" + run + "/checkpoints"))
      if (entry.path().filename() == "manifest.json" &&
          entry.path().string().find("step-") != std::string::npos)
        newest = std::max(newest, entry.path().string());
    return read_file(newest);
  }
  TempDir dir_;
  std::string data_ = dir_.path() + "/d.csv";
};

TEST_F(Divergence, ANonfiniteGradientStopsTheRunAndIsNamed) {
  write(rows_with({37}, "3e38"));
  for (const int ranks : {1, 3}) {
    const ProcessResult result = train(ranks, "stop" + std::to_string(ranks));
    EXPECT_EQ(result.exit_code, 3) << result.describe();
    EXPECT_EQ(count(result.err, "error:"), 1) << result.err;
    EXPECT_THAT(result.err, AllOf(HasSubstr("step "), HasSubstr("the output of dense1 (dense+relu)"),
                                  HasSubstr("the gradient of dense2.weight["), HasSubstr("with sample 37"),
                                  HasSubstr("d.csv' line 39"), HasSubstr("The step was not applied"),
                                  HasSubstr("checkpoint"), HasSubstr("guard.nonfinite = skip")));
  }
}

TEST_F(Divergence, AnUpdateThatOverflowsIsNeverSaved) {
  std::string rows = "a,b,y\n";
  for (int i = 0; i < 64; ++i) rows += fmt::format("{},{},{}\n", i % 7, i % 5, i % 3 * 1000);
  write(rows);
  for (const std::string policy : {"stop", "skip"})
    for (const int ranks : {1, 3}) {
      const std::string run = policy + std::to_string(ranks);
      const ProcessResult result = lockstep(ranks, {"train",
                                                    "--run.dir",
                                                    dir_.path() + "/" + run,
                                                    "--data.format",
                                                    "csv",
                                                    "--data.train",
                                                    data_,
                                                    "--data.normalize",
                                                    "none",
                                                    "--model.layers",
                                                    "dense:1",
                                                    "--loss.name",
                                                    "mse",
                                                    "--train.global_batch",
                                                    "16",
                                                    "--train.slices",
                                                    "4",
                                                    "--optimizer.name",
                                                    "sgd",
                                                    "--optimizer.lr",
                                                    "1e6",
                                                    "--optimizer.momentum",
                                                    "0",
                                                    "--train.steps",
                                                    "12",
                                                    "--checkpoint.every_steps",
                                                    "1",
                                                    "--guard.nonfinite",
                                                    policy});
      EXPECT_EQ(result.exit_code, 3) << result.describe();
      EXPECT_EQ(count(result.err, "error:"), 1) << result.err;
      EXPECT_FALSE(std::filesystem::exists(dir_.path() + "/" + run + "/model.safetensors"));
      // What is saved can be gone on from.
      const ProcessResult evaluated = lockstep(0, {"inspect", dir_.path() + "/" + run});
      EXPECT_THAT(evaluated.out, HasSubstr("whole")) << result.err;
      for (const auto& entry : std::filesystem::recursive_directory_iterator(dir_.path() + "/" + run)) {
        if (entry.path().filename() != "model.safetensors") continue;
        for (const float value : weights_in(entry.path()))
          EXPECT_TRUE(std::isfinite(value)) << entry.path() << " holds " << value;
      }
    }
}

TEST_F(Divergence, SkippingAndRollingBackEndInOneDigestAtAnyPlacement) {
  write(rows_with({37, 60}, "3e38"));
  std::string want;
  for (const std::string policy : {"skip", "rollback"})
    for (const int ranks : {1, 2, 3, 4})
      for (const std::string flag : {"true", "false"}) {
        if (ranks == 1 && flag == "false") continue;
        const std::string run = fmt::format("{}{}{}", policy, ranks, flag);
        const ProcessResult result = train(ranks, run,
                                           {"--guard.nonfinite", policy, "--optimizer.sharded", flag,
                                            "--train.overlap", ranks % 2 ? flag : "true"});
        ASSERT_EQ(result.exit_code, 0) << result.describe();
        if (want.empty()) want = run_digest(run);
        EXPECT_EQ(run_digest(run), want) << run;
        // Each bad row comes once an epoch; both may fall into one batch.
        const auto skipped = events(run, "skipped");
        EXPECT_GE(skipped.size(), 3u);
        EXPECT_LE(skipped.size(), 6u);
        for (const auto& event : skipped) {
          const auto samples = event["samples"].get<std::vector<std::int64_t>>();
          EXPECT_EQ(samples.size(), 16u);
          EXPECT_TRUE(std::count(samples.begin(), samples.end(), 37) +
                      std::count(samples.begin(), samples.end(), 60));
          EXPECT_THAT(newest_manifest(run), HasSubstr(fmt::format("{}", samples[0])));
        }
        EXPECT_THAT(newest_manifest(run), HasSubstr("skipped"));
        EXPECT_EQ(events(run, "rollback").empty(), policy == "skip");
      }
  // Not a digest that every run has: without the bad rows it is another.
  write(rows_with({}, ""));
  ASSERT_EQ(train(1, "clean").exit_code, 0);
  EXPECT_NE(run_digest("clean"), want);
}

TEST_F(Divergence, ResumingKeepsWhatWasSkipped) {
  write(rows_with({37, 60}, "3e38"));
  for (const std::string policy : {"skip", "rollback"}) {
    ASSERT_EQ(train(2, policy, {"--guard.nonfinite", policy}).exit_code, 0);
    for (const int stop : {3, 5, 12}) {
      const std::string run = fmt::format("{}{}", policy, stop);
      ASSERT_EQ(train(2, run, {"--guard.nonfinite", policy, "--train.steps", std::to_string(stop)}).exit_code,
                0);
      const ProcessResult result = resume(3, run, {"--train.steps", "0"});
      ASSERT_EQ(result.exit_code, 0) << result.describe();
      EXPECT_EQ(run_digest(run), run_digest(policy)) << run;
      EXPECT_EQ(events(run, "skipped").size(), events(policy, "skipped").size());
    }
  }
}

TEST_F(Divergence, NoMoreBatchesAreSkippedThanTheLimitAllows) {
  write(rows_with({37, 60}, "3e38"));
  const ProcessResult result = train(2, "limit", {"--guard.nonfinite", "skip", "--guard.limit", "1"});
  EXPECT_EQ(result.exit_code, 3) << result.describe();
  EXPECT_THAT(result.err, HasSubstr("1 batch has been left out before, and guard.limit allows no more"));
}

TEST_F(Divergence, ARunOfWhichEveryBatchIsLeftOutEndsWithAnError) {
  std::set<int> all;
  for (int i = 0; i < 96; ++i) all.insert(i);
  write(rows_with(all, "3e38"));
  const ProcessResult result = train(2, "none", {"--guard.nonfinite", "skip", "--guard.limit", "1000"});
  EXPECT_EQ(result.exit_code, 3) << result.describe();
  EXPECT_THAT(result.err, HasSubstr("nothing was trained"));
  EXPECT_THAT(result.out, Not(HasSubstr("best weights")));
  EXPECT_FALSE(std::filesystem::exists(dir_.path() + "/none/model.safetensors"));
}

TEST_F(Divergence, ANanThatAReluHidesFromTheLossIsFound) {
  // The second convolution sums +inf and -inf; a ReLU fused with it may make 0 of NaN, and the loss finite.
  write(rows_with({37}, "3e38"));
  const std::string layers = "conv:64x2 conv:4x1 relu flatten dense:3";
  const ProcessResult result = train(2, "relu", {"--data.shape", "1x2x4"}, layers);
  EXPECT_EQ(result.exit_code, 3) << result.describe();
  EXPECT_THAT(result.err, AllOf(HasSubstr("conv1 (conv"), HasSubstr("with sample 37")));
  std::set<std::string> digests;
  for (const int ranks : {1, 2, 4}) {
    const std::string run = fmt::format("relu{}", ranks);
    const ProcessResult skipped =
        train(ranks, run, {"--data.shape", "1x2x4", "--guard.nonfinite", "skip"}, layers);
    ASSERT_EQ(skipped.exit_code, 0) << skipped.describe();
    digests.insert(run_digest(run));
  }
  EXPECT_EQ(digests.size(), 1u);
}

TEST_F(Divergence, WithBatchNormTheWholeSliceIsNamed) {
  write(rows_with({37}, "3e38"));
  const ProcessResult result = train(2, "bn", {}, "dense:16 bn relu dense:3");
  EXPECT_EQ(result.exit_code, 3) << result.describe();
  EXPECT_THAT(result.err, AllOf(HasSubstr("batch norm mixes them"), HasSubstr("37")));
}

TEST_F(Divergence, ALossSpikeIsSkippedAlikeAtAnyPlacement) {
  write(rows_with({37, 60}, "500"));
  const std::vector<std::string> guard = {"--guard.spike_window", "2", "--guard.spike_factor", "3"};
  const auto with = [&](const std::string& policy, std::vector<std::string> more = {}) {
    more.insert(more.end(), guard.begin(), guard.end());
    more.insert(more.end(), {"--guard.spike", policy});
    return more;
  };
  const ProcessResult stopped = train(2, "stop", with("stop"));
  EXPECT_EQ(stopped.exit_code, 3) << stopped.describe();
  EXPECT_EQ(count(stopped.err, "error:"), 1) << stopped.err;
  EXPECT_THAT(stopped.err, AllOf(HasSubstr("above the bound of"), HasSubstr("3 times the mean of 2 steps"),
                                 HasSubstr("The step was not applied"), HasSubstr("with sample"),
                                 HasSubstr("has the highest loss"), HasSubstr("the gradient of dense"),
                                 HasSubstr("of the op dense"), HasSubstr("has the largest norm")));
  std::string want;
  for (const std::string policy : {"skip", "rollback"})
    for (const int ranks : {1, 2, 3, 4}) {
      const std::string run = fmt::format("{}{}", policy, ranks);
      const ProcessResult result = train(ranks, run, with(policy));
      ASSERT_EQ(result.exit_code, 0) << result.describe();
      EXPECT_FALSE(events(run, "skipped").empty());
      if (want.empty()) want = run_digest(run);
      EXPECT_EQ(run_digest(run), want) << run;
    }
  ASSERT_EQ(train(2, "half", with("skip", {"--train.steps", "7"})).exit_code, 0);
  const ProcessResult resumed = resume(4, "half", {"--train.steps", "0"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.describe();
  EXPECT_EQ(run_digest("half"), want);
}

TEST_F(Divergence, KeysWithoutEffectAreRefused) {
  write(rows_with({}, ""));
  for (const auto& [flags, why] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"--guard.limit", "3"}, "guard.limit"},
           {{"--guard.spike_factor", "3"}, "guard.spike is off"},
           {{"--check.replicas", "repair", "--check.replicas_every", "0"}, "check.replicas_every is 0"}}) {
    const ProcessResult result = train(0, "refused", flags);
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    EXPECT_THAT(result.err, HasSubstr(why));
  }
}

}  // namespace
}  // namespace lockstep::test
