// Whole runs whose steps are enqueued one behind the other, against runs that settle each one: what they
// train, tell and save is the same. Real mpirun launches of late_program.

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/process.h"
#include "support/temp_dir.h"

namespace lockstep::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

using Flags = std::vector<std::string>;

constexpr const char* config = R"(
[model]
layers = conv:6x3,pad=1 bn relu maxpool:2 flatten dropout:0.2 dense:5
[train]
epochs = 3
global_batch = 12
slices = 4
[optimizer]
name = adam
lr = 0.01
[guard]
nonfinite = stop
)";

class Late : public testing::Test {
 protected:
  Late() { std::ofstream(dir_.path() + "/c.ini") << config; }

  ProcessResult train_images(int ranks, const std::string& run, Flags flags = {}) {
    const Flags images = {"--data.format", "synthetic", "--data.samples", "100",
                          "--data.shape",  "2x6x6",     "--data.classes", "5"};
    flags.insert(flags.end(), images.begin(), images.end());
    return train(ranks, run, flags);
  }
  ProcessResult train(int ranks, const std::string& run, const Flags& flags) {
    std::vector<std::string> argv = {
        LATE_PROGRAM,           word_, "train", "--config", dir_.path() + "/c.ini", "--run.dir",
        dir_.path() + "/" + run};
    argv.insert(argv.end(), flags.begin(), flags.end());
    return run_mpi(ranks, argv, {.timeout_s = 120});
  }
  std::string digest(const std::string& run) {
    const ProcessResult result =
        run_process({LOCKSTEP_PROGRAM, "digest", dir_.path() + "/" + run, "--state"});
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    return result.out.substr(0, 64);
  }
  /// The lines of metrics.jsonl of a kind, without what depends on the time of day.
  std::vector<std::string> metrics(const std::string& run, const std::string& kind) {
    std::vector<std::string> out;
    std::ifstream file(dir_.path() + "/" + run + "/metrics.jsonl");
    for (std::string line; std::getline(file, line);) {
      nlohmann::json json = nlohmann::json::parse(line);
      if (json["kind"] != kind) continue;
      for (const char* key : {"time", "samples_per_second"}) json.erase(key);
      out.push_back(json.dump());
    }
    return out;
  }
  static std::int64_t waits(const ProcessResult& result) {
    const std::size_t at = result.out.find("waits: ");
    return at == std::string::npos ? -1 : std::stoll(result.out.substr(at + 7));
  }
  static int count_of(const std::string& text, const std::string& what) {
    int n = 0;
    for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
    return n;
  }
  /// The line about an error.
  static std::string errors(const ProcessResult& result) {
    const std::size_t at = result.err.find("error:");
    return at == std::string::npos ? "" : result.err.substr(at, result.err.find('\n', at) - at);
  }
  /// Columns of numbers for three classes, in 8 batches of 12. One sample overflows where the columns are
  /// summed up, also in float32.
  Flags csv() {
    std::string text = "a,b,c,d,e,f,g,h,y\n";
    for (int i = 0; i < 96; ++i) {
      for (int k = 0; k < 8; ++k)
        text += i == 37 ? fmt::format("{}3e38,", k % 2 ? "-" : "")
                        : fmt::format("{:.3f},", (i * 13 + k * 7) % 17 / 9.0 - 1);
      text += fmt::format("{}\n", i % 3);
    }
    std::ofstream(dir_.path() + "/d.csv") << text;
    return {"--model.layers",   "dense:16 relu dense:3",
            "--data.format",    "csv",
            "--data.train",     dir_.path() + "/d.csv",
            "--data.normalize", "none",
            "--run.seed",       "4"};  // it comes in the third step
  }
  /// The scale of the loss in the newest checkpoint.
  nlohmann::json loss_scale(const std::string& run) {
    std::filesystem::path newest;
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(dir_.path() + "/" + run + "/checkpoints"))
      if (entry.path().filename() == "manifest.json" && (newest.empty() || newest < entry.path()))
        newest = entry.path();
    std::ifstream file(newest);
    return nlohmann::json::parse(file)["extra"]["loss_scale"];
  }

  TempDir dir_;
  std::string word_ = "7";
};

TEST_F(Late, StepsInFlightTellAndSaveWhatSettledOnesDo) {
  for (const int ranks : {1, 2, 3})
    for (const std::string clip : {"0", "0.5"}) {
      const Flags flags = {
          "--optimizer.clip_norm",  clip, "--optimizer.sharded",      clip == "0" ? "true" : "false",
          "--check.replicas_every", "5",  "--checkpoint.every_steps", "9"};
      const auto with = [&](int every) {
        Flags out = flags;
        out.insert(out.end(), {"--log.every_steps", std::to_string(every)});
        return out;
      };
      const std::string at = std::to_string(ranks) + "_" + clip;
      const ProcessResult one = train_images(ranks, "one" + at, with(1));
      ASSERT_EQ(one.exit_code, 0) << one.describe();
      const ProcessResult many = train_images(ranks, "many" + at, with(6));
      ASSERT_EQ(many.exit_code, 0) << many.describe();
      EXPECT_EQ(digest("one" + at), digest("many" + at));
      EXPECT_EQ(metrics("one" + at, "epoch"), metrics("many" + at, "epoch"));
      // 27 steps in epochs of nine: of each sixth step, and of the last, there is a line.
      const std::vector<std::string> all = metrics("one" + at, "train"), some = metrics("many" + at, "train");
      ASSERT_EQ(all.size(), 27u);
      EXPECT_EQ(some, (std::vector<std::string>{all[5], all[11], all[17], all[23], all[26]}));
      EXPECT_EQ(metrics("many" + at, "timing").size(), 4u);
      // What is beside the steps (parameters for checks, checkpoints and the end) waits alike. Outcomes are
      // asked for after steps 1, 5, 6, 9, 10, 12, 15, 18, 20, 24, 25 and 27 instead of after every one.
      EXPECT_EQ(waits(one) - waits(many), 27 - 12) << one.out << many.out;
    }
}

TEST_F(Late, ARunGoesOnFromACheckpointInTheMiddle) {
  const ProcessResult whole = train_images(2, "whole", {"--log.every_steps", "50"});
  ASSERT_EQ(whole.exit_code, 0) << whole.describe();
  const Flags part = {"--log.every_steps", "50", "--train.steps", "13", "--schedule.steps", "27"};
  ASSERT_EQ(train_images(3, "part", part).exit_code, 0);
  const ProcessResult rest = train(1, "part", {"--resume", "--train.steps", "0"});
  ASSERT_EQ(rest.exit_code, 0) << rest.describe();
  EXPECT_EQ(digest("whole"), digest("part"));
}

TEST_F(Late, ABadStepIsNamedAndTakesBackThoseBehindIt) {
  Flags flags = csv();
  flags.insert(flags.end(), {"--checkpoint.every_steps", "2"});
  for (const std::string clip : {"0", "0.5"}) {
    std::string wanted;
    for (const int every : {1, 3, 50}) {
      const int ranks = every == 50 && clip == "0" ? 3 : 1;
      Flags more = flags;
      more.insert(more.end(), {"--optimizer.clip_norm", clip, "--log.every_steps", std::to_string(every)});
      const ProcessResult result = train(ranks, fmt::format("bad{}_{}", every, clip), more);
      EXPECT_EQ(result.exit_code, 3) << result.describe();
      if (wanted.empty()) wanted = errors(result);
      EXPECT_EQ(count_of(result.err, "error:"), 1) << result.err;
      EXPECT_EQ(errors(result), wanted);
    }
    EXPECT_THAT(wanted, AllOf(HasSubstr("step 3: "), HasSubstr("the output of dense1"),
                              HasSubstr("the last checkpoint is that of step 2"),
                              HasSubstr("the gradient of dense2.weight["), HasSubstr("with sample 37"),
                              HasSubstr("d.csv' line 39"), HasSubstr("The step was not applied")));
  }
}

// ---- In float16: one batch of each epoch overflows, and is skipped ----

TEST_F(Late, StepsInFlightScaleTheLossAsSettledOnes) {
  word_ = "7:fp16";
  for (const int ranks : {1, 2, 3})
    for (const std::string clip : {"0", "0.5"}) {
      const auto with = [&](int every) {
        Flags out = csv();
        out.insert(out.end(), {"--optimizer.clip_norm", clip, "--optimizer.sharded",
                               clip == "0" ? "true" : "false", "--check.replicas_every", "5",
                               "--checkpoint.every_steps", "8", "--log.every_steps", std::to_string(every)});
        return out;
      };
      const std::string at = std::to_string(ranks) + "_" + clip;
      const ProcessResult one = train(ranks, "one" + at, with(1));
      ASSERT_EQ(one.exit_code, 0) << one.describe();
      const ProcessResult many = train(ranks, "many" + at, with(6));
      ASSERT_EQ(many.exit_code, 0) << many.describe();
      EXPECT_EQ(digest("one" + at), digest("many" + at));
      EXPECT_EQ(digest("one" + at), digest("one1_" + clip));
      EXPECT_EQ(loss_scale("one" + at),
                (nlohmann::json{{"scale", 8192.0}, {"good_steps", 0}, {"skipped", 3}}));
      EXPECT_EQ(loss_scale("many" + at), loss_scale("one" + at));
      EXPECT_EQ(metrics("one" + at, "epoch"), metrics("many" + at, "epoch"));
      // Of 24 steps three were skipped, and of those no line tells.
      const std::vector<std::string> all = metrics("one" + at, "train"), some = metrics("many" + at, "train");
      EXPECT_EQ(all.size(), 21u);
      EXPECT_GE(some.size(), 3u);
      for (const std::string& line : some) EXPECT_EQ(std::count(all.begin(), all.end(), line), 1) << line;
      // Outcomes are asked for after steps 1, 5, 6, 8, 10, 12, 15, 16, 18, 20 and 24.
      EXPECT_EQ(waits(one) - waits(many), 24 - 11) << one.out << many.out;
    }
}

TEST_F(Late, TheScaleOfTheLossGoesOnFromACheckpoint) {
  word_ = "7:fp16";
  const Flags data = csv();
  const auto with = [&](Flags flags) {
    flags.insert(flags.end(), data.begin(), data.end());
    flags.insert(flags.end(), {"--log.every_steps", "50"});
    return flags;
  };
  const ProcessResult whole = train(2, "whole", with({}));
  ASSERT_EQ(whole.exit_code, 0) << whole.describe();
  ASSERT_EQ(train(3, "part", with({"--train.steps", "13", "--schedule.steps", "24"})).exit_code, 0);
  EXPECT_NE(loss_scale("part"), loss_scale("whole"));
  const ProcessResult rest = train(1, "part", with({"--resume", "--train.steps", "0"}));
  ASSERT_EQ(rest.exit_code, 0) << rest.describe();
  EXPECT_EQ(digest("whole"), digest("part"));
  EXPECT_EQ(loss_scale("whole"), loss_scale("part"));
}

TEST_F(Late, ABatchThatNoScaleHelpsStopsTheRun) {
  word_ = "7:fp16";
  std::string wanted;
  for (const auto& [ranks, every] : {std::pair(1, 1), {1, 50}, {3, 50}}) {
    Flags flags = csv();
    flags.insert(flags.end(), {"--train.epochs", "20", "--checkpoint.every_steps", "8", "--log.every_steps",
                               std::to_string(every)});
    const std::string run = fmt::format("bad{}_{}", ranks, every);
    const ProcessResult result = train(ranks, run, flags);
    EXPECT_EQ(result.exit_code, 3) << result.describe();
    if (wanted.empty()) wanted = errors(result);
    EXPECT_EQ(count_of(result.err, "error:"), 1) << result.err;
    EXPECT_EQ(errors(result), wanted);
    // Sixteen halvings lead from 2^16 to 1, so that it is the seventeenth epoch in which the run stops.
    EXPECT_EQ(loss_scale(run)["scale"], 1.0);
    EXPECT_EQ(loss_scale(run)["skipped"], 16);
  }
  EXPECT_THAT(wanted, AllOf(HasSubstr("the last checkpoint is that of step 128"), HasSubstr("with sample 37"),
                            HasSubstr("The step was not applied")));
}

}  // namespace
}  // namespace lockstep::test
