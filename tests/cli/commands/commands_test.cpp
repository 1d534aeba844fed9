// The commands on trained runs: predictions, evaluation, digests, doctor, inspect, help, and output that
// cannot be written.

#include <cmath>
#include <filesystem>
#include <set>

#include "cli/cli_data.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

std::vector<nlohmann::json> parsed_lines(const std::string& text) {
  std::istringstream in(text);
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

class Commands : public testing::Test {
 protected:
  /// 61 samples: 43 train, 6 validate and 12 test, and none of these divides into batches of 12.
  void train_images(const std::string& more_key = "train.epochs", const std::string& more_value = "6") {
    write_file_bytes(images, idx_images(61));
    write_file_bytes(labels, idx_labels(61));
    train({{"data.train", images},
           {"data.validation_fraction", "0.1"},
           {"data.test_fraction", "0.2"},
           {"model.layers", "conv:8x3 bn relu flatten dense:3"},
           {more_key, more_value}});
  }
  void train_words() {
    write_file_bytes(csv, csv_words(61));
    train({{"data.format", "csv"},
           {"data.train", csv},
           {"model.layers", "dense:16 relu dense:3"},
           {"train.epochs", "40"}});
  }
  void train(Flags flags) {
    for (const auto& [key, value] : Flags{{"run.dir", run},
                                          {"train.global_batch", "12"},
                                          {"train.slices", "4"},
                                          {"optimizer.name", "adam"},
                                          {"optimizer.lr", "0.02"}})
      flags.emplace_back(key, value);
    const ProcessResult result = lockstep(2, with_flags({"train"}, flags));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
  }
  /// The lines of a prediction, which must be the same text at any number of ranks.
  std::vector<nlohmann::json> predict(const std::string& input) {
    std::set<std::string> outputs;
    for (const int ranks : {0, 1, 2, 3}) {
      const ProcessResult result = lockstep(ranks, {"predict", "--run", run, "--input", input});
      EXPECT_EQ(result.exit_code, 0) << result.describe();
      outputs.insert(result.out);
    }
    EXPECT_EQ(outputs.size(), 1u) << "predictions depend on the number of ranks";
    const std::vector<nlohmann::json> lines = parsed_lines(*outputs.begin());
    for (std::size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(lines[i]["index"], i);
    return lines;
  }
  static void expect_probabilities(const std::vector<nlohmann::json>& lines, std::size_t classes) {
    for (const auto& line : lines) {
      const std::vector<double> p = line["probabilities"];
      ASSERT_EQ(p.size(), classes);
      double sum = 0;
      for (const double x : p) sum += x;
      EXPECT_NEAR(sum, 1, 1e-12);
      const auto top = std::max_element(p.begin(), p.end());
      EXPECT_EQ(line["label"], top - p.begin());
      EXPECT_EQ(line["probability"], *top);
    }
  }
  TempDir folder;
  const std::string run = folder / "run";
  const std::string images = folder / "train-images-idx3-ubyte";
  const std::string labels = folder / "train-labels-idx1-ubyte";
  const std::string csv = folder / "train.csv";
};

TEST_F(Commands, PredictionsOnImagesComeInTheOrderOfTheInputAndNeedNoLabels) {
  train_images();
  // 29 images in batches of 12, without a labels file beside them.
  const std::string input = folder / "some.idx";
  write_file_bytes(input, idx_images(29));
  const std::vector<nlohmann::json> lines = predict(input);
  ASSERT_EQ(lines.size(), 29u);
  expect_probabilities(lines, 3);
  int right = 0;
  for (std::size_t i = 0; i < lines.size(); ++i) right += lines[i]["label"] == i % 3 ? 1 : 0;
  EXPECT_GE(right, 27) << "the classes of this data are easy and come in turn: the order is wrong";

  // Into a file: the same lines, and nothing of them on standard output.
  const std::string output = folder / "out.jsonl";
  const ProcessResult result = lockstep(3, {"predict", "--run", run, "--input", input, "--output", output});
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(parsed_lines(read_file_bytes(output)), lines);

  // One image more or less changes nothing about the others.
  write_file_bytes(input, idx_images(1));
  const std::vector<nlohmann::json> one = predict(input);
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0]["label"], lines[0]["label"]);
}

TEST_F(Commands, PredictionsOnCsvNameTheClasses) {
  train_words();
  const std::vector<nlohmann::json> with_labels = predict(csv);
  ASSERT_EQ(with_labels.size(), 61u);
  expect_probabilities(with_labels, 3);
  const std::vector<std::string> words = {"cat", "dog", "emu"};
  for (const auto& line : with_labels) EXPECT_EQ(line["class"], words.at(line["label"]));
  int right = 0;
  for (std::size_t i = 0; i < with_labels.size(); ++i)
    right += with_labels[i]["class"] == words[i % 3] ? 1 : 0;
  EXPECT_GE(right, 58);

  std::string text = "x,y\n";
  std::istringstream rows(csv_words(61));
  std::string row;
  std::getline(rows, row);
  while (std::getline(rows, row)) text += row.substr(0, row.rfind(',')) + "\n";
  write_file_bytes(folder / "bare.csv", text);
  EXPECT_EQ(predict(folder / "bare.csv"), with_labels);
}

TEST_F(Commands, PredictionsOfARegression) {
  write_file_bytes(csv, csv_numbers(90));
  train({{"data.format", "csv"},
         {"data.train", csv},
         {"loss.name", "mse"},
         {"model.layers", "dense:1"},
         {"train.epochs", "200"}});
  const std::vector<nlohmann::json> lines = predict(csv);
  ASSERT_EQ(lines.size(), 90u);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const int a = static_cast<int>(i) * 7 % 13, b = static_cast<int>(i) * 5 % 11;
    EXPECT_NEAR(lines[i]["prediction"].get<double>(), 2 * a - b, 0.5) << i;
    EXPECT_FALSE(lines[i].contains("label"));
  }
}

TEST_F(Commands, EvaluationCountsEverySampleOfASplitOnce) {
  train_images();
  for (const auto& [split, samples] :
       std::map<std::string, std::string>{{"train", "43"}, {"validation", "6"}, {"test", "12"}}) {
    std::set<std::string> outputs;
    for (const int ranks : {0, 2, 3}) {
      const ProcessResult result = lockstep(ranks, {"evaluate", "--run", run, "--split", split});
      ASSERT_EQ(result.exit_code, 0) << result.describe();
      outputs.insert(result.out);
    }
    ASSERT_EQ(outputs.size(), 1u);
    EXPECT_TRUE(outputs.begin()->starts_with(split + ": " + samples + " samples")) << *outputs.begin();
    EXPECT_NE(outputs.begin()->find(" of " + samples + ")"), std::string::npos) << *outputs.begin();
  }
  // Another batch size changes nothing that is counted.
  const auto accuracy = [&](const std::string& batch) {
    const ProcessResult result =
        lockstep(2, {"evaluate", "--run", run, "--split", "train", "--train.eval_batch", batch});
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    return result.out.substr(result.out.find("accuracy"));
  };
  EXPECT_EQ(accuracy("8"), accuracy("64"));
  EXPECT_EQ(accuracy("8"), accuracy("0"));  // as in training
  for (const int ranks : {0, 3}) {
    expect_refusal(lockstep(ranks, {"evaluate", "--run", run, "--train.eval_batch", "13"}, in_time()),
                   {"train.eval_batch", "13", "train.slices"});
    // Other parts of the training file would hold samples that the run was trained on.
    expect_refusal(lockstep(ranks, {"evaluate", "--run", run, "--data.test_fraction", "0.5"}, in_time()),
                   {"--data.test_fraction", "0.5", "0.2", run});
  }
  // On other data, with labels: accuracy as counted from the predictions.
  write_file_bytes(folder / "new-images-idx3-ubyte", idx_images(17));
  write_file_bytes(folder / "new-labels-idx1-ubyte", idx_labels(17));
  int right = 0;
  const std::vector<nlohmann::json> lines = predict(folder / "new-images-idx3-ubyte");
  for (std::size_t i = 0; i < lines.size(); ++i) right += lines[i]["label"] == i % 3 ? 1 : 0;
  const ProcessResult result = lockstep(3, {"evaluate", "--run", run, "--data.test",
                                            folder / "new-images-idx3-ubyte", "--data.test_fraction", "0"});
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_NE(result.out.find("(" + std::to_string(right) + " of 17)"), std::string::npos) << result.out;
}

TEST_F(Commands, DigestAndInspectOfFilesRunsAndCheckpoints) {
  train_images();
  std::string checkpoint;
  for (const auto& entry : fs::directory_iterator(run + "/checkpoints/gen-000001"))
    if (const std::string name = entry.path(); name.find("/step-") != std::string::npos)
      checkpoint = std::max(checkpoint, name);
  ASSERT_NE(checkpoint, "");
  EXPECT_EQ(digest(run), digest(run + "/model.safetensors"));
  EXPECT_EQ(digest(run), digest(checkpoint));
  EXPECT_EQ(digest(run, true), digest(checkpoint, true));
  EXPECT_NE(digest(run, true), digest(run));
  expect_refusal(lockstep(0, {"digest", run + "/model.safetensors", "--state"}, in_time()),
                 {"model.safetensors", "--state"});

  const auto shown = [&](const std::string& path) {
    const ProcessResult alone = lockstep(0, {"inspect", path});
    EXPECT_EQ(alone.exit_code, 0) << alone.describe();
    return alone.out;
  };
  for (const char* part : {"conv1.weight", "8x1x3x3", "bn1.running_mean", "tensors"}) {
    EXPECT_NE(shown(run + "/model.safetensors").find(part), std::string::npos) << part;
    EXPECT_NE(shown(checkpoint).find(part), std::string::npos) << part;
  }
  for (const char* part : {"whole", "step 24", "4 slices", "optimizer.", "fingerprint"})
    EXPECT_NE(shown(checkpoint).find(part), std::string::npos) << part << shown(checkpoint);
  for (const char* part :
       {"checkpoints: 2", "model.safetensors", "conv:8x3 bn relu flatten dense:3", "metrics.jsonl"})
    EXPECT_NE(shown(run).find(part), std::string::npos) << part << shown(run);
  EXPECT_NE(shown(images).find("61x6x6"), std::string::npos);
  write_file_bytes(csv, csv_words(61));
  EXPECT_NE(shown(csv).find("61 lines of data, 3 columns, with a header"), std::string::npos) << shown(csv);

  // Every copy does all of it.
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{"digest", run},
        {"inspect", run},
        {"train", "--help"},
        {"--version"},
        {"export", "--run", run, "--output", folder / "out.safetensors"}}) {
    const ProcessResult three = lockstep(3, args), alone = lockstep(0, args);
    EXPECT_EQ(three.exit_code, 0) << three.describe();
    EXPECT_EQ(three.out.size(), 3 * alone.out.size()) << three.out;
    const std::string first_line = alone.out.substr(0, alone.out.find('\n'));
    EXPECT_EQ(count(three.out, first_line), 3 * count(alone.out, first_line)) << three.out;
  }
}

TEST_F(Commands, DoctorTellsRanksLibrariesAndTransports) {
  for (const int ranks : {0, 1, 3}) {
    const ProcessResult result = lockstep(ranks, {"doctor"});
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(count(result.out, "rank  host"), 1) << result.out;
    for (const char* part : {"rendezvous: ", "processor: ", "Open MPI", "oneDNN", "devices: cpu",
                             "/dev/shm: ", "shared windows: work"})
      EXPECT_EQ(count(result.out, part), 1) << part << "\n" << result.out;
  }
}

TEST_F(Commands, HelpAndVersion) {
  const ProcessResult overview = lockstep(0, {"--help"});
  EXPECT_EQ(overview.exit_code, 0);
  for (const std::string command :
       {"train", "evaluate", "predict", "export", "inspect", "digest", "runs", "doctor"}) {
    EXPECT_NE(overview.out.find(command), std::string::npos) << command;
    const ProcessResult help = lockstep(0, {command, "--help"});
    EXPECT_EQ(help.exit_code, 0) << help.describe();
    EXPECT_NE(help.out.find("lockstep " + command), std::string::npos) << help.out;
    EXPECT_EQ(help.err, "");
  }
  const std::string train = lockstep(0, {"train", "--help"}).out;
  for (const char* key : {"--train.global_batch", "--optimizer.lr", "--data.train", "--run.dir", "--dry-run",
                          "--resume", "--device"})
    EXPECT_NE(train.find(key), std::string::npos) << key;
  EXPECT_TRUE(lockstep(0, {"--version"}).out.starts_with("lockstep "));
}

TEST_F(Commands, OutputThatCannotBeWrittenIsAnError) {
  train_images();
  const auto into = [&](const std::string& redirection, const std::vector<std::string>& args) {
    std::vector<std::string> argv = {"sh", "-c", "exec \"$@\" " + redirection, "sh", LOCKSTEP_PROGRAM};
    argv.insert(argv.end(), args.begin(), args.end());
    return run_process(argv, in_time());
  };
  for (const std::string redirection : {">/dev/full", ">&-"}) {
    for (const std::vector<std::string>& args : {std::vector<std::string>{"digest", run},
                                                 {"inspect", run},
                                                 {"--help"},
                                                 {"--version"},
                                                 {"doctor"},
                                                 {"evaluate", "--run", run},
                                                 {"predict", "--run", run, "--input", images}}) {
      SCOPED_TRACE(args[0] + " " + redirection);
      expect_refusal(into(redirection, args), {"standard output", "written"});
    }
    // A training keeps its run, and what was meant for the terminal does not end up in one of its files.
    const std::string dir = folder / ("run" + redirection.substr(redirection.size() - 1));
    const ProcessResult result = into(redirection, with_flags({"train"}, {{"run.dir", dir},
                                                                          {"data.train", images},
                                                                          {"model.layers", "flatten dense:3"},
                                                                          {"train.epochs", "1"}}));
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_NE(result.err.find("warning: standard output: it cannot be written"), std::string::npos)
        << result.describe();
    EXPECT_EQ(lockstep(0, {"inspect", dir}).exit_code, 0);
    for (const nlohmann::json& line : json_lines(dir + "/metrics.jsonl")) EXPECT_TRUE(line.is_object());
    EXPECT_EQ(digest(dir), digest(dir + "/model.safetensors"));
  }
  // What went into a file is whole.
  const ProcessResult exported =
      into(">/dev/full", {"export", "--run", run, "--output", folder / "out.safetensors"});
  EXPECT_EQ(exported.exit_code, 0) << exported.describe();
  EXPECT_EQ(digest(folder / "out.safetensors"), digest(run));
  // Predictions into a file on a full device.
  expect_refusal(
      lockstep(2, {"predict", "--run", run, "--input", images, "--output", "/dev/full"}, in_time()),
      {"/dev/full"});
}

TEST_F(Commands, APredictionThatFailsLeavesTheOlderOutputAlone) {
  train_images();
  write_file_bytes(folder / "out.jsonl", "earlier\n");
  expect_refusal(
      lockstep(2, {"predict", "--run", run, "--input", folder / "absent", "--output", folder / "out.jsonl"},
               in_time()),
      {"absent"});
  EXPECT_EQ(read_file_bytes(folder / "out.jsonl"), "earlier\n");
  // The input as the output: a slip that must not cost the data.
  const std::string before = read_file_bytes(images);
  expect_refusal(lockstep(2, {"predict", "--run", run, "--input", images, "--output", images}, in_time()),
                 {"--output", "--input"});
  EXPECT_EQ(read_file_bytes(images), before);
}

}  // namespace
}  // namespace lockstep::test
