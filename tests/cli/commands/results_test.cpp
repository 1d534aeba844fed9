// What a run is worth, as its commands tell it: evaluations, predictions, exports and tables of runs.

#include <cmath>

#include "cli/commands/results_support.h"

namespace lockstep::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
namespace fs = std::filesystem;

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

TEST_F(Results, IdsAreThoseOfTheirOwnRowsWhateverHeaderTheInputHas) {
  train_words();
  const auto ids = [&](const std::string& input, const std::vector<std::string>& more) {
    std::vector<std::string> args = {"predict", "--run", run, "--input", "-"};
    args.insert(args.end(), more.begin(), more.end());
    std::istringstream lines(output_of(args, "out.jsonl", input));
    std::string all;
    for (std::string line; std::getline(lines, line);) {
      const nlohmann::json row = nlohmann::json::parse(line);
      for (const auto& value : row["id"]) all += value.get<std::string>() + ";";
    }
    return all;
  };
  EXPECT_EQ(ids("1,1,cat,N1\n1,2,dog,N2\n", {"--data.header", "no", "--id", "3"}), "N1;N2;");
  EXPECT_EQ(ids("7,1.0,2.0\n8,1.0,2.5\n", {"--data.header", "no", "--id", "0"}), "7;8;");
  EXPECT_EQ(ids("id,x,y\n7,1,2\n8,1,2.5\n", {"--id", "id"}), "7;8;");
  // Trained without a header.
  const std::string words = csv_words(61);
  write_file_bytes(csv, words.substr(words.find('\n') + 1));
  fs::remove_all(run);
  ASSERT_EQ(train({{"model.layers", "dense:3"}, {"train.epochs", "1"}}).exit_code, 0);
  EXPECT_EQ(ids("id,x,y\n77,1,2\n88,3,4\n", {"--data.header", "yes", "--id", "id"}), "77;88;");
  EXPECT_EQ(ids("c77,1,2\nc88,3,4\n", {"--id", "0"}), "c77;c88;");
}

TEST_F(Results, NoOutputTakesThePlaceOfARunOrItsData) {
  train_words();
  const auto refused = [&](const std::string& output) {
    const std::string before = fs::exists(output) ? read_file_bytes(output) : "";
    for (const std::vector<std::string>& args :
         std::vector<std::vector<std::string>>{{"evaluate", "--run", run},
                                               {"predict", "--run", run, "--input", csv},
                                               {"export", "--run", run},
                                               {"runs", run}}) {
      std::vector<std::string> whole = args;
      whole.insert(whole.end(), {"--output", output});
      expect_refusal(lockstep(0, whole, in_time()), {"--output"});
    }
    EXPECT_EQ(fs::exists(output) ? read_file_bytes(output) : "", before) << output;
  };
  for (const char* file : {"config.resolved.ini", "model.safetensors", "preprocessing.json", "test.json"})
    refused(run + "/" + file);
  refused(csv);
  refused("-");
  for (const auto& entry : fs::recursive_directory_iterator(run + "/checkpoints"))
    if (entry.path().filename() == "manifest.json") refused(entry.path().string());
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
  fs::remove(out);
  expect_refusal(lockstep(0, {"export", "--run", run, "--output", out}),
                 {run + "/preprocessing.json", "does not exist", "put back the file"});
  for (const char* text : {"", "{", "{}"}) {
    write_file_bytes(run + "/preprocessing.json", text);
    const ProcessResult damaged = lockstep(0, {"export", "--run", run, "--output", out});
    expect_refusal(damaged, {run + "/preprocessing.json", "put back the file", "or train anew"});
    EXPECT_EQ(count(damaged.err, "json.exception"), 0) << damaged.err;
  }
  EXPECT_FALSE(fs::exists(out));
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
