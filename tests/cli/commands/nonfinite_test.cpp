// Values that are not finite, and classes that are many: no command tells what is not so, or needs more
// memory than it was said to need.

#include <cmath>
#include <cstring>

#include "cli/commands/results_support.h"

namespace lockstep::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
namespace fs = std::filesystem;

using NonFinite = Results;

// ---- Values that are not finite ----

TEST_F(NonFinite, AnInputThatNoTrainingPreparedForIsRefusedEverywhere) {
  std::string text = "x,y,kind\n";
  for (int i = 0; i < 60; ++i)
    text += std::string(i % 2 ? "1e-37" : "0") + "," + std::to_string(i % 3) + (i % 3 ? ",cat\n" : ",dog\n");
  write_file_bytes(csv, text);
  const std::string bad = folder / "bad.csv";
  write_file_bytes(bad, "x,y,kind\n0,1,cat\n1,2,cat\n100,2,dog\n");
  const std::string good = folder / "good.csv";
  write_file_bytes(good, "x,y,kind\n0,1,cat\n1e-37,2,cat\n");
  Flags flags{{"model.layers", "dense:2"}, {"train.epochs", "2"}, {"data.test", bad}};
  expect_refusal(train(flags), {"bad.csv' line 4", "column 'x' is 100", "float32"});
  EXPECT_FALSE(fs::exists(run)) << "before step 1";
  flags.back().second = good;
  ASSERT_EQ(train(flags).exit_code, 0);
  for (const int ranks : {0, 3}) {
    expect_refusal(lockstep(ranks, {"evaluate", "--run", run, "--data.test", bad}, in_time()),
                   {"bad.csv' line 4", "column 'x' is 100"});
    const ProcessResult predicted = lockstep(ranks, {"predict", "--run", run, "--input", bad}, in_time());
    expect_refusal(predicted, {"bad.csv' line 4", "column 'x' is 100"});
    EXPECT_EQ(predicted.out, "");
  }
  // Far away, but a number: said, and computed.
  write_file_bytes(bad, "x,y,kind\n0,1,cat\n1e-9,2,cat\n");
  const ProcessResult far = lockstep(1, {"predict", "--run", run, "--input", bad}, in_time());
  EXPECT_EQ(far.exit_code, 0) << far.describe();
  EXPECT_THAT(far.err, HasSubstr("bad.csv' line 3: column 'x' is 1e-09, 2e+28 deviations"));
  EXPECT_THAT(far.out, Not(HasSubstr("null")));
}

TEST_F(NonFinite, AValidationThatIsNotFiniteIsNeverTheBestAndATestIsAnError) {
  std::string text = "x,y,kind\n";
  for (int i = 0; i < 60; ++i)
    text += std::string(i % 2 ? "1e-37" : "0") + "," + std::to_string(i % 3) + (i % 3 ? ",cat\n" : ",dog\n");
  write_file_bytes(csv, text);
  // 3e38 deviations from the mean: a float32, but nothing that a second layer could sum.
  const std::string other = folder / "other.csv";
  write_file_bytes(other, "x,y,kind\n0,1,cat\n15,2,cat\n-15,2,dog\n");
  const Flags flags{{"model.layers", "dense:64 dense:64 dense:2"},
                    {"train.epochs", "2"},
                    {"optimizer.lr", "10000"},
                    {"data.validation", other}};
  for (const int ranks : {1, 3}) {
    fs::remove_all(run);
    const ProcessResult result = train(flags, ranks);
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(count(result.out + result.err, "validation: no finite loss"), 2) << result.describe();
    EXPECT_EQ(count(result.err, "the model gives NaN or infinity for 2 of 3 samples, the first is"), 2)
        << result.err;
    EXPECT_EQ(count(result.err, "other.csv' line 3"), 3) << result.err;
    EXPECT_EQ(count(result.err, "there are no best weights"), 1) << result.err;
    EXPECT_FALSE(fs::exists(run + "/best.safetensors"));
    for (const nlohmann::json& line : json_lines(run + "/metrics.jsonl")) {
      if (line["kind"] != "epoch") continue;
      EXPECT_TRUE(line["validation_loss"].is_null());
      EXPECT_FALSE(line.contains("validation_accuracy"));
    }
    fs::remove_all(run);
    Flags tested = flags;
    tested.back().first = "data.test";
    const ProcessResult failed = train(tested, ranks);
    EXPECT_EQ(failed.exit_code, 3) << failed.describe();
    EXPECT_EQ(count(failed.err, "lockstep: error"), 1) << failed.err;
    EXPECT_THAT(failed.err, HasSubstr("test: the model gives NaN or infinity for 2 of 3 samples"));
    EXPECT_THAT(failed.out, Not(HasSubstr("accuracy 0")));
    EXPECT_TRUE(json_lines(run + "/metrics.jsonl").back()["loss"].is_null());
    EXPECT_TRUE(fs::exists(run + "/model.safetensors")) << "what was trained is kept";
  }
}

TEST_F(NonFinite, AColumnThatDiffersByRoundingAloneCountsAsConstant) {
  std::string text = "x,y,kind\n";
  for (int i = 0; i < 60; ++i)
    text += std::string(i % 2 ? "0.10000001" : "0.1") + "," + std::to_string(i % 3) +
            (i % 3 ? ",cat\n" : ",dog\n");
  write_file_bytes(csv, text);
  const ProcessResult result =
      train({{"model.layers", "dense:2"}, {"train.epochs", "20"}, {"data.test_fraction", "0.2"}});
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(count(result.err, "column 'x' (0.1 to 0.10000001): the values of the training split"), 1)
      << result.err;
  const nlohmann::json stored = nlohmann::json::parse(read_file_bytes(run + "/preprocessing.json"));
  EXPECT_EQ(stored["normalizer"]["deviation"][0], 1.0);
  write_file_bytes(folder / "in.csv", "x,y,kind\n1,0,dog\n");
  EXPECT_EQ(lockstep(0, {"predict", "--run", run, "--input", folder / "in.csv"}).exit_code, 0);
}

/// The weights of a run, changed behind its back: those of the last layer become huge, or NaN.
void spoil_weights(const std::string& path, float value) {
  std::string bytes = read_file_bytes(path);
  // A file without a digest is one of another program.
  const std::size_t digest = bytes.find("\"digest\":");
  ASSERT_NE(digest, std::string::npos);
  bytes[digest + 1] = 'D';
  std::memcpy(bytes.data() + bytes.size() - sizeof value, &value, sizeof value);
  write_file_bytes(path, bytes);
}

TEST_F(NonFinite, WeightsThatAreNotFiniteAreUsedByNoCommand) {
  train_words();
  spoil_weights(run + "/model.safetensors", NAN);
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{"evaluate", "--run", run},
        {"predict", "--run", run, "--input", csv},
        {"export", "--run", run, "--output", folder / "out.safetensors"}}) {
    for (const int ranks : {0, 2}) {
      if (args[0] == "export" && ranks > 0) continue;
      expect_refusal(lockstep(ranks, args, in_time()), {"model.safetensors", "dense2.weight", "NaN"});
    }
  }
  EXPECT_FALSE(fs::exists(folder / "out.safetensors"));
  EXPECT_THAT(lockstep(0, {"inspect", run + "/model.safetensors"}).out,
              HasSubstr("1 value is NaN or infinite, the first in dense2.weight"));
}

TEST_F(NonFinite, OutputsThatAreNotFiniteAreNoScoresAndNoPredictions) {
  train_words();
  spoil_weights(run + "/model.safetensors", 3e38f);
  write_file_bytes(folder / "new.csv", "x,y,kind\n1.0,1.0,cat\n9e5,9e5,dog\n-9e5,-9e5,emu\n");
  write_file_bytes(folder / "out.jsonl", "earlier");
  for (const int ranks : {0, 1, 3, 4}) {
    const ProcessResult evaluated = lockstep(
        ranks, {"evaluate", "--run", run, "--data.test", folder / "new.csv", "--data.test_fraction", "0"},
        in_time());
    EXPECT_EQ(evaluated.exit_code, 3) << evaluated.describe();
    EXPECT_THAT(evaluated.err, HasSubstr("NaN or infinity for"));
    EXPECT_THAT(evaluated.err, HasSubstr("new.csv' line "));
    EXPECT_THAT(evaluated.out, Not(HasSubstr("accuracy")));
    EXPECT_EQ(count(evaluated.err, "lockstep: error"), 1);
    for (const bool into_file : {false, true}) {
      std::vector<std::string> args = {"predict", "--run", run, "--input", folder / "new.csv"};
      if (into_file) args.insert(args.end(), {"--output", folder / "out.jsonl"});
      const ProcessResult predicted = lockstep(ranks, args, in_time());
      EXPECT_EQ(predicted.exit_code, 3) << predicted.describe();
      EXPECT_THAT(predicted.out, Not(HasSubstr("null")));
      EXPECT_THAT(predicted.err, HasSubstr("which is no prediction"));
      EXPECT_EQ(count(predicted.err, "lockstep: error"), 1);
    }
  }
  EXPECT_EQ(read_file_bytes(folder / "out.jsonl"), "earlier");
}

// ---- Many classes ----

TEST_F(NonFinite, AMillionClassesAndAStrayLabelCostNoMemory) {
  std::string text = "x,y,kind\n";
  for (int i = 0; i < 90; ++i)
    text += std::to_string(i % 7) + ",1," + std::to_string(i == 8 ? 60000 : i % 3) + "\n";
  write_file_bytes(csv, text);
  for (const char* classes : {"0", "1000000"}) {
    const ProcessResult result =
        train({{"model.layers", std::string("dense:") + (*classes == '0' ? "60001" : classes)},
               {"train.epochs", "1"},
               {"data.classes", classes},
               {"data.test_fraction", "0.2"},
               {"data.validation_fraction", "0.1"},
               {"run.dir", run + classes}},
              *classes == '0' ? 2 : 1);
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_LT(count(result.out, "\n"), 60) << result.out;
    EXPECT_THAT(result.out, HasSubstr("worst of"));
    const nlohmann::json report = nlohmann::json::parse(read_file_bytes(run + classes + "/test.json"));
    EXPECT_EQ(report["samples"], 18);
    EXPECT_LE(report["confusion_cells"].size(), 18u);
  }
}

TEST_F(NonFinite, WhatAnEvaluationNeedsIsCountedBeforeStepOne) {
  write_file_bytes(csv, csv_words(61));
  const std::vector<std::string> args =
      with_flags({"sh", "-c", "ulimit -v 6000000; exec \"$@\"", "sh", LOCKSTEP_PROGRAM, "train", "--dry-run"},
                 {{"run.dir", run},
                  {"data.format", "synthetic"},
                  {"data.samples", "5000"},
                  {"data.shape", "1"},
                  {"data.classes", "500000"},
                  {"data.test_fraction", "0.5"},
                  {"model.layers", "dense:500000"},
                  {"train.epochs", "1"},
                  {"train.global_batch", "16"},
                  {"train.slices", "16"},
                  {"train.eval_batch", "16000"}});
  expect_refusal(run_process(args, in_time()), {"train.eval_batch = 16000", "memory"});
}

}  // namespace
}  // namespace lockstep::test
