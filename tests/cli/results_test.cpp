// What a run is worth, as its commands tell it: evaluations, predictions, exports and tables of runs, also
// where there is nothing sound to tell.

#include <cmath>
#include <cstring>
#include <filesystem>
#include <gmock/gmock.h>
#include <set>

#include "cli_data.h"

namespace lockstep::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
namespace fs = std::filesystem;

class Results : public testing::Test {
 protected:
  ProcessResult train(Flags flags, int ranks = 2) {
    for (const auto& [key, value] : Flags{{"run.dir", run},
                                          {"data.format", "csv"},
                                          {"data.train", csv},
                                          {"train.global_batch", "12"},
                                          {"train.slices", "4"},
                                          {"optimizer.name", "adam"},
                                          {"optimizer.lr", "0.02"}})
      if (std::none_of(flags.begin(), flags.end(), [&, k = key](const auto& f) { return f.first == k; }))
        flags.emplace_back(key, value);
    return lockstep(ranks, with_flags({"train"}, flags), in_time());
  }
  void train_words(const Flags& more = {}) {
    write_file_bytes(csv, csv_words(61));
    Flags flags{
        {"model.layers", "dense:16 relu dense:3"}, {"train.epochs", "10"}, {"data.test_fraction", "0.2"}};
    flags.insert(flags.end(), more.begin(), more.end());
    const ProcessResult result = train(flags);
    ASSERT_EQ(result.exit_code, 0) << result.describe();
  }
  void train_numbers(const Flags& more = {}) {
    write_file_bytes(csv, csv_numbers(61));
    Flags flags{{"model.layers", "dense:1"},
                {"loss.name", "mse"},
                {"train.epochs", "60"},
                {"data.test_fraction", "0.2"}};
    flags.insert(flags.end(), more.begin(), more.end());
    const ProcessResult result = train(flags);
    ASSERT_EQ(result.exit_code, 0) << result.describe();
  }
  /// What `args` write to --output, which must be the same bytes at any number of ranks.
  std::string output_of(std::vector<std::string> args, const std::string& name,
                        const std::string& input = "") {
    std::set<std::string> outputs;
    args.insert(args.end(), {"--output", folder / name});
    for (const int ranks : {0, 1, 2, 3, 4}) {
      fs::remove(folder / name);
      ProcessOptions options = in_time();
      options.input = input;
      const ProcessResult result = lockstep(ranks, args, options);
      EXPECT_EQ(result.exit_code, 0) << result.describe();
      outputs.insert(read_file_bytes(folder / name));
    }
    EXPECT_EQ(outputs.size(), 1u) << "the result depends on the number of ranks";
    return *outputs.begin();
  }
  nlohmann::json evaluation(std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"evaluate", "--run", run};
    args.insert(args.end(), more.begin(), more.end());
    return nlohmann::json::parse(output_of(args, "report.json"));
  }
  TempDir folder;
  const std::string run = folder / "run";
  const std::string csv = folder / "train.csv";
};

// ---- Values that are not finite ----

TEST_F(Results, AnInputThatNoTrainingPreparedForIsRefusedEverywhere) {
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

TEST_F(Results, AValidationThatIsNotFiniteIsNeverTheBestAndATestIsAnError) {
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

TEST_F(Results, AColumnThatDiffersByRoundingAloneCountsAsConstant) {
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

TEST_F(Results, WeightsThatAreNotFiniteAreUsedByNoCommand) {
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
              HasSubstr("1 values are NaN or infinite, the first in dense2.weight"));
}

TEST_F(Results, OutputsThatAreNotFiniteAreNoScoresAndNoPredictions) {
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

TEST_F(Results, AMillionClassesAndAStrayLabelCostNoMemory) {
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

TEST_F(Results, WhatAnEvaluationNeedsIsCountedBeforeStepOne) {
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

// ---- Evaluate ----

TEST_F(Results, AReportHoldsAllThatWasMeasured) {
  train_words();
  const nlohmann::json report = evaluation({"--split", "train"});
  EXPECT_EQ(report["run"], run);
  EXPECT_EQ(report["weights"], "last");
  EXPECT_EQ(report["weights_digest"], digest(run));
  EXPECT_EQ(report["split"], "train");
  EXPECT_EQ(report["samples"], 49);
  EXPECT_EQ(report["classes"][1]["name"], "dog");
  int all = 0;
  for (const auto& row : report["confusion"])
    for (const auto& cell : row) all += cell.get<int>();
  EXPECT_EQ(all, 49);
  EXPECT_NEAR(report["accuracy"].get<double>(), report["correct"].get<double>() / 49, 1e-12);
  // The test at the end of the training is the same evaluation.
  const nlohmann::json test = evaluation();
  EXPECT_EQ(test, nlohmann::json::parse(read_file_bytes(run + "/test.json")));
  expect_refusal(lockstep(2, {"evaluate", "--run", run, "--output", csv}, in_time()),
                 {"--output", "would be lost"});
  expect_refusal(lockstep(2, {"evaluate", "--run", run, "--output", run + "/config.resolved.ini"}, in_time()),
                 {"--output", "would be lost"});
  expect_refusal(lockstep(2, {"evaluate", "--run", run, "--output", folder / "no/report.json"}, in_time()),
                 {"no/report.json"});
  expect_refusal(lockstep(2, {"evaluate", "--run", run, "--output", "/dev/full"}, in_time()), {"/dev/full"});
}

TEST_F(Results, RegressionIsScoredByMaeRmseAndR2) {
  train_numbers();
  const nlohmann::json report = evaluation({"--split", "test"});
  std::vector<double> errors, targets;
  const std::string inputs = folder / "inputs.csv";
  // The same by hand, over the whole file: from predictions.
  const nlohmann::json whole = evaluation({"--data.test", csv, "--data.test_fraction", "0"});
  std::istringstream lines(output_of({"predict", "--run", run, "--input", csv}, "out.jsonl"));
  std::istringstream rows(read_file_bytes(csv));
  std::string line, row;
  std::getline(rows, row);
  double absolute = 0, squares = 0, mean = 0, spread = 0;
  while (std::getline(lines, line) && std::getline(rows, row)) {
    targets.push_back(std::stod(row.substr(row.rfind(',') + 1)));
    errors.push_back(nlohmann::json::parse(line)["prediction"].get<double>() - targets.back());
  }
  ASSERT_EQ(errors.size(), 61u);
  for (std::size_t i = 0; i < errors.size(); ++i) {
    absolute += std::abs(errors[i]) / 61;
    squares += errors[i] * errors[i] / 61;
    mean += targets[i] / 61;
  }
  for (const double t : targets) spread += (t - mean) * (t - mean) / 61;
  EXPECT_NEAR(whole["mae"].get<double>(), absolute, 1e-9);
  EXPECT_NEAR(whole["rmse"].get<double>(), std::sqrt(squares), 1e-9);
  EXPECT_NEAR(whole["r2"].get<double>(), 1 - squares / spread, 1e-9);
  EXPECT_EQ(whole["targets"][0]["name"], "y");
  EXPECT_EQ(report["scaled_targets"], false);
  const ProcessResult text = lockstep(2, {"evaluate", "--run", run});
  for (const char* part : {"MAE ", "RMSE ", "R2 "}) EXPECT_THAT(text.out, HasSubstr(part));
  const nlohmann::json last = json_lines(run + "/metrics.jsonl").back();
  EXPECT_EQ(last["rmse"], report["rmse"]);
}

TEST_F(Results, ScaledTargetsAreLearntAndPredictionsComeBackInTheirUnits) {
  write_file_bytes(csv, [] {
    std::string text = "a,b,y,z\n";
    for (int i = 0; i < 61; ++i) {
      const int a = (i * 7) % 13, b = (i * 5) % 11;
      text += std::to_string(a) + "," + std::to_string(b) + "," +
              std::to_string(100000 + 2000 * a - 1000 * b) + "," + std::to_string(-a) + "e-3\n";
    }
    return text;
  }());
  const Flags flags{{"model.layers", "dense:2"},
                    {"loss.name", "mse"},
                    {"train.epochs", "60"},
                    {"data.label", "y,z"},
                    {"data.test_fraction", "0.2"},
                    {"data.scale_targets", "standard"},
                    {"data.validation_fraction", "0.1"}};
  std::set<std::string> digests;
  for (const int ranks : {1, 2, 3}) {
    fs::remove_all(run);
    const ProcessResult result = train(flags, ranks);
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_THAT(result.out, HasSubstr("losses are of scaled targets"));
    digests.insert(digest(run));
  }
  EXPECT_EQ(digests.size(), 1u);
  const nlohmann::json report = evaluation();
  EXPECT_EQ(report["scaled_targets"], true);
  EXPECT_LT(report["loss"].get<double>(), 0.2);
  EXPECT_GT(report["r2"].get<double>(), 0.8);
  EXPECT_GT(report["targets"][0]["rmse"].get<double>(), 1) << "in the units of the data";
  write_file_bytes(folder / "in.csv", "a,b,y,z\n6,5,0,0\n");
  const std::string row = output_of({"predict", "--run", run, "--input", folder / "in.csv"}, "p.csv");
  EXPECT_THAT(row, HasSubstr("index,prediction.y,prediction.z\n0,10"));
  expect_refusal(
      train({{"model.layers", "dense:3"}, {"train.epochs", "1"}, {"data.scale_targets", "standard"}}),
      {"data.scale_targets", "no effect"});
  expect_refusal(
      lockstep(1, {"train", "--resume", "--run.dir", run, "--data.scale_targets", "none"}, in_time()),
      {"data.scale_targets"});
}

// ---- Predict ----

TEST_F(Results, PredictionsGoIntoCsvWithIdColumnsFromAFileOrAPipe) {
  train_words();
  const std::string input = "who,x,y,when\nann,0.1,3,\"Mon, 1\"\nbo,1.2,4,Tue\n猫,2.3,5,\n";
  write_file_bytes(folder / "in.csv", input);
  const std::string from_file =
      output_of({"predict", "--run", run, "--input", folder / "in.csv", "--id", "who,when"}, "out.csv");
  const std::string piped =
      output_of({"predict", "--run", run, "--input", "-", "--id", "who,when"}, "out.csv", input);
  EXPECT_EQ(piped, from_file);
  EXPECT_THAT(from_file, HasSubstr("index,who,when,label,class,probability,probability.cat,probability.dog,"
                                   "probability.emu\n0,ann,\"Mon, 1\","));
  EXPECT_THAT(from_file, HasSubstr("\n2,猫,\"\","));
  EXPECT_EQ(count(from_file, "\n"), 4);
  // The same predictions as JSON, without ids.
  write_file_bytes(folder / "plain.csv", "x,y\n0.1,3\n1.2,4\n2.3,5\n");
  std::istringstream lines(
      output_of({"predict", "--run", run, "--input", folder / "plain.csv"}, "out.jsonl"));
  for (std::string line, row = ""; std::getline(lines, line);) {
    const nlohmann::json j = nlohmann::json::parse(line);
    EXPECT_THAT(from_file,
                HasSubstr("," + std::to_string(j["label"].get<int>()) + "," + j["class"].get<std::string>()));
  }
  const auto refused = [&](std::vector<std::string> args, const std::string& text,
                           const std::vector<std::string>& fragments) {
    args.insert(args.begin(), {"predict", "--run", run});
    for (const int ranks : {0, 2}) {
      ProcessOptions options = in_time();
      options.input = text;
      expect_refusal(lockstep(ranks, args, options), fragments);
    }
  };
  refused({"--input", "-"}, "", {"standard input is empty"});
  refused({"--input", "-"}, "x,y\n1,what\n", {"standard input", "line 2", "what"});
  refused({"--input", "-", "--id", "whom"}, input, {"--id", "'whom'", "'who'"});
  refused({"--input", "-"}, "\x1f\x8b\x08", {"gzip"});
  refused({"--input", folder / "in.csv", "--id", "who,when", "--output", folder / "o.csv.gz"}, "", {".gz"});
}

TEST_F(Results, ALateWriterOfStandardInputIsWaitedFor) {
  train_words();
  const ProcessResult result = run_process({"sh", "-c", "{ echo x,y; sleep 7; echo 1,2; } | \"$@\"", "sh",
                                            LOCKSTEP_PROGRAM, "predict", "--run", run, "--input", "-"},
                                           in_time());
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(count(result.out, "\n"), 1);
  EXPECT_EQ(count(result.err, "waiting for samples on standard input"), 1) << result.err;
}

// ---- Digest, export, runs ----

TEST_F(Results, DigestsAreCompared) {
  train_words();
  const std::string other = folder / "other";
  ASSERT_EQ(train({{"model.layers", "dense:3"}, {"train.epochs", "1"}, {"run.dir", other}}).exit_code, 0);
  const ProcessResult equal = lockstep(0, {"digest", run, run + "/model.safetensors", run});
  EXPECT_EQ(equal.exit_code, 0) << equal.describe();
  EXPECT_EQ(count(equal.out, "\n"), 4);
  EXPECT_TRUE(equal.out.ends_with("\nequal\n")) << equal.out;
  for (const bool state : {false, true}) {
    std::vector<std::string> args = {"digest", run, run, other};
    if (state) args.emplace_back("--state");
    const ProcessResult different = lockstep(0, args);
    EXPECT_EQ(different.exit_code, 1) << different.describe();
    EXPECT_TRUE(different.out.ends_with("\ndifferent\n")) << different.out;
  }
  const ProcessResult absent = lockstep(0, {"digest", run, folder / "absent"});
  expect_refusal(absent, {"absent"});
  EXPECT_EQ(absent.out, "") << "no half answer";
  expect_refusal(lockstep(0, {"digest"}), {"one or more", "PATH"});
}

TEST_F(Results, AnExportTellsHowInputsArePreparedAndWhatClassesAreCalled) {
  train_words();
  const std::string out = folder / "out.safetensors";
  ASSERT_EQ(lockstep(0, {"export", "--run", run, "--output", out}).exit_code, 0);
  EXPECT_EQ(digest(out), digest(run));
  const std::string bytes = read_file_bytes(out);
  const nlohmann::json header = nlohmann::json::parse(
      bytes.substr(8, static_cast<unsigned char>(bytes[0]) | static_cast<unsigned char>(bytes[1]) << 8));
  const nlohmann::json metadata = header["__metadata__"];
  EXPECT_EQ(nlohmann::json::parse(metadata["lockstep.class_names"].get<std::string>()),
            (std::vector<std::string>{"cat", "dog", "emu"}));
  EXPECT_EQ(nlohmann::json::parse(metadata["lockstep.preprocessing"].get<std::string>()),
            nlohmann::json::parse(read_file_bytes(run + "/preprocessing.json")));
  EXPECT_EQ(metadata["format"], "pt");
  for (const char* file : {"config.resolved.ini", "preprocessing.json", "model.safetensors"})
    expect_refusal(lockstep(0, {"export", "--run", run, "--output", run + "/" + file}),
                   {file, "would be lost"});
  const ProcessResult shown = lockstep(0, {"inspect", out});
  EXPECT_THAT(shown.out, HasSubstr("metadata lockstep.class_names = [\"cat\",\"dog\",\"emu\"]"));
  fs::remove(run + "/preprocessing.json");
  const ProcessResult without = lockstep(0, {"export", "--run", run, "--output", out});
  EXPECT_EQ(without.exit_code, 0) << without.describe();
  EXPECT_THAT(without.err, HasSubstr("warning"));
}

TEST_F(Results, RunsAreComparedInATable) {
  train_words();
  const std::string second = folder / "deep/er/second";
  ASSERT_EQ(train({{"model.layers", "dense:3"},
                   {"train.epochs", "20"},
                   {"train.steps", "3"},
                   {"optimizer.lr", "0.5"},
                   {"run.dir", second}})
                .exit_code,
            0);
  fs::create_directories(folder / "broken");
  write_file_bytes(folder / "broken/config.resolved.ini", "\x1b[31mnonsense\n");
  const ProcessResult result = lockstep(0, {"runs", folder.path(), run});
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(count(result.out, "\n"), 4) << result.out;
  for (const char* part :
       {"optimizer.lr", "model.layers", "0.5", "0.02", "finished", "3/3", "damaged: ", "accuracy "})
    EXPECT_THAT(result.out, HasSubstr(part));
  EXPECT_THAT(result.out, Not(HasSubstr("optimizer.name")));
  EXPECT_THAT(result.out, Not(HasSubstr("\x1b")));
  ASSERT_EQ(lockstep(0, {"runs", folder.path(), "--output", folder / "runs.csv"}).exit_code, 0);
  EXPECT_EQ(count(read_file_bytes(folder / "runs.csv"), "\n"), 4);
  ASSERT_EQ(lockstep(0, {"runs", folder.path(), "--output", folder / "runs.json"}).exit_code, 0);
  const nlohmann::json table = nlohmann::json::parse(read_file_bytes(folder / "runs.json"));
  ASSERT_EQ(table.size(), 3u);
  EXPECT_EQ(table[1]["differs"]["optimizer.lr"], "0.5");
  EXPECT_EQ(table[2]["test"]["metric"], "accuracy");
  expect_refusal(lockstep(0, {"runs", folder / "deep/none"}), {"deep/none"});
  fs::create_directories(folder / "empty");
  expect_refusal(lockstep(0, {"runs", folder / "empty"}), {"no run"});
}

// ---- Names from outside ----

TEST_F(Results, NamesFromOutsideReachNoTerminalAsTheyAre) {
  // The turn of the direction in the header is UTF-8 text. A file that begins with controls is no CSV file.
  std::string text = "x\xe2\x80\xae,y,kind\n";
  const std::vector<std::string> names = {"\x1b]0;title\x07", "猫猫", "\"two\nlines\"",
                                          std::string(3000, 'w')};
  for (int i = 0; i < 160; ++i) {
    const std::string& name = names[static_cast<std::size_t>(i % 4)];
    text += std::to_string(i % 4) + "," + std::to_string(i % 5) + "," + (i < 80 ? "plain" : name) + "\n";
  }
  write_file_bytes(csv, text);
  const std::string hostile = folder / "r\x1b[31m\nun";
  const ProcessResult result = train({{"model.layers", "dense:8 relu dense:5"},
                                      {"train.epochs", "3"},
                                      {"data.test_fraction", "0.2"},
                                      {"data.validation_fraction", "0.1"}});
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  fs::copy(run, hostile, fs::copy_options::recursive);
  const auto expect_clean = [](const ProcessResult& r) {
    for (const char c : r.out + r.err)
      EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 || c == '\n') << r.describe();
    std::istringstream lines(r.out + r.err);
    for (std::string line; std::getline(lines, line);) EXPECT_LT(line.size(), 2500u);
  };
  expect_clean(result);
  expect_clean(lockstep(0, {"evaluate", "--run", hostile}));
  expect_clean(lockstep(0, {"inspect", hostile}));
  expect_clean(lockstep(0, {"inspect", csv}));
  expect_clean(lockstep(0, {"digest", hostile, run}));
  expect_clean(lockstep(0, {"runs", folder.path()}));
  expect_clean(lockstep(0, {"evaluate", "--run", folder / "absent\x1b[31m\nlockstep: error: forged"}));
  expect_clean(lockstep(0, {"trai\x1b[2Jn"}));
  write_file_bytes(folder / "in.csv",
                   "x\xe2\x80\xae,y,kind\nwh\xc2\x9b"
                   "2Jat,1,w\n");
  expect_clean(lockstep(0, {"predict", "--run", run, "--input", folder / "in.csv"}));
  // The rows of the table end in one column, whatever the names are made of.
  const std::string table = lockstep(0, {"evaluate", "--run", run}).out;
  EXPECT_THAT(table, HasSubstr("猫猫"));
  EXPECT_THAT(table, HasSubstr("two\\nlines"));
}

}  // namespace
}  // namespace lockstep::test
