// What the program says about the data that it reads, and what it refuses to guess.

#include <algorithm>
#include <filesystem>

#include "core/digest.h"
#include "support/stored_numbers.h"

#include "cli/cli_data.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class DataReading : public testing::Test {
 protected:
  Flags flags(const Flags& more = {}) const {
    Flags all = {{"run.dir", run},
                 {"data.format", "csv"},
                 {"data.train", csv},
                 {"model.layers", "dense:3"},
                 {"train.global_batch", "12"},
                 {"train.slices", "3"},
                 {"train.epochs", "1"}};
    for (const auto& [key, value] : more) {
      const auto same = std::find_if(all.begin(), all.end(), [&](const auto& f) { return f.first == key; });
      if (same == all.end())
        all.emplace_back(key, value);
      else
        same->second = value;
    }
    return all;
  }
  ProcessResult train(const std::string& text, const Flags& more = {}) {
    write_file_bytes(csv, text);
    return lockstep(0, with_flags({"train", "--overwrite"}, flags(more)), in_time());
  }
  ProcessResult predict(const std::string& text, const Flags& more = {}) {
    write_file_bytes(folder / "more.csv", text);
    return lockstep(0, with_flags({"predict", "--run", run, "--input", folder / "more.csv"}, more),
                    in_time());
  }
  static void says(const ProcessResult& result, const std::vector<std::string>& lines) {
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    for (const std::string& line : lines)
      EXPECT_NE(result.err.find(line), std::string::npos) << line << "\n" << result.describe();
  }
  /// csv_words() with another header and something before every line.
  static std::string table(const std::string& header, int rows, bool index = false) {
    std::istringstream in(csv_words(rows));
    std::string text = header + "\n";
    int row = -1;
    for (std::string line; std::getline(in, line); ++row)
      if (row >= 0) text += (index ? std::to_string(row) + "," : "") + line + "\n";
    return text;
  }
  TempDir folder;
  const std::string run = folder / "run", csv = folder / "train.csv";
};

TEST_F(DataReading, AtTheStartItIsSaidWhatWasTakenAsWhat) {
  write_file_bytes(folder / "test.csv", csv_words(9));
  const std::string line = "'" + csv +
                           "': 90 samples of 2 features, below a header; label column 'kind', 3 classes: cat "
                           "30, dog 30, emu 30\n";
  const ProcessResult trained = train(csv_words(90), {{"data.test", folder / "test.csv"}});
  says(trained, {line, "test.csv': 9 samples", "cat 3, dog 3, emu 3"});
  EXPECT_EQ(trained.out.find("label column"), std::string::npos);
  const ProcessResult planned =
      lockstep(2, with_flags({"train", "--dry-run", "--overwrite"}, flags()), in_time());
  says(planned, {line});
  EXPECT_EQ(count(planned.err, "90 samples of 2 features"), 1) << planned.err;
  says(lockstep(0, {"evaluate", "--run", run}), {"test.csv': 9 samples", "label column 'kind'"});
  const ProcessResult predicted = predict("y,x\n1,2\n");
  says(predicted, {"more.csv': 1 sample of 2 features"});
  EXPECT_EQ(predicted.out.find("features"), std::string::npos);

  write_file_bytes(folder / "train-images-idx3-ubyte", idx_images(24));
  write_file_bytes(folder / "train-labels-idx1-ubyte", idx_labels(24));
  says(lockstep(0, with_flags({"train", "--dry-run"}, {{"run.dir", run},
                                                       {"data.train", folder / "train-images-idx3-ubyte"},
                                                       {"model.layers", "flatten dense:3"},
                                                       {"train.epochs", "1"}})),
       {"': 24 samples of 1x6x6 (u8); 3 classes: 0 8, 1 8, 2 8\n"});
  says(train(csv_numbers(30), {{"loss.name", "mse"}, {"model.layers", "dense:1"}}),
       {"1 target: column 'y' -"});
}

TEST_F(DataReading, APandasHeaderIsNoSample) {
  const std::string digest_of_words = [&] {
    says(train(csv_words(90)), {"90 samples"});
    return digest(run);
  }();
  says(train(table("0,1,kind", 90)), {"90 samples of 2 features, below a header", "label column 'kind'"});
  EXPECT_EQ(digest(run), digest_of_words);
  says(train(table("0,1,2", 90)), {"90 samples of 2 features, below a header", "label column '2'"});
  EXPECT_EQ(digest(run), digest_of_words);
  expect_refusal(train("0,1,2\n3,4,0\n5,6,1\n7,8,2\n"), {csv, "line 1", "data.header"});
}

TEST_F(DataReading, AnIndexIsRefusedOrWarnedOfAndLeftOutByKey) {
  says(train(csv_words(90)), {});
  const std::string expected = digest(run);
  expect_refusal(train(table(",x,y,kind", 90, true)), {csv, "column number 0", "data.drop = 0"});
  says(train(table(",x,y,kind", 90, true), {{"data.drop", "0"}}), {"without column number 0 (from 0)"});
  EXPECT_EQ(digest(run), expected);
  says(train(table("id,x,y,kind", 90, true)),
       {"warning: ", "'id' counts the lines from 0", "data.drop = id"});
  says(train(table("id,x,y,kind", 90, true), {{"data.drop", "id"}}), {"without column 'id'"});
  EXPECT_EQ(digest(run), expected);
  EXPECT_NE(read_file_bytes(run + "/config.resolved.ini").find("drop = id"), std::string::npos);
  // The run knows what it left out, and finds the rest by name.
  const ProcessResult one = predict("kind,more,y,x\ncat,7,3,0.5\n");
  says(one, {"not used, as the training file has no column of that name: 'more'"});
  EXPECT_EQ(one.out, predict("x,y\n0.5,3\n").out);
  expect_refusal(predict("x,z\n0.5,3\n"), {"more.csv", "no column 'y'"});
  expect_refusal(train(table("id,x,y,kind", 90, true), {{"data.drop", "idd"}}),
                 {"data.drop", "'idd'", "'id'"});
  says(lockstep(0, with_flags({"train", "--resume", "--train.epochs", "2"}, {{"run.dir", run}})), {});
}

TEST_F(DataReading, ADelimiterIsAKey) {
  says(train(csv_words(90)), {});
  const std::string expected = digest(run);
  for (const auto& [name, character] :
       {std::pair("semicolon", ';'), std::pair("tab", '\t'), std::pair("space", ' ')}) {
    std::string text = csv_words(90);
    std::replace(text.begin(), text.end(), ',', character);
    says(train(text, {{"data.delimiter", name}}), {"90 samples of 2 features"});
    EXPECT_EQ(digest(run), expected) << name;
  }
  std::string text = csv_words(90);
  std::replace(text.begin(), text.end(), ',', ';');
  expect_refusal(train(text), {"semicolons", "data.delimiter"});
  expect_refusal(train(csv_words(9), {{"data.delimiter", "x"}}), {"--data.delimiter", "\"x\"", "tab, space"});
  expect_refusal(train(csv_words(9), {{"data.delimiter", "\t"}}), {"--data.delimiter", "its name"});
  // The file of a command may be another one than the training file.
  says(train(csv_words(30)), {});
  EXPECT_EQ(predict("x;y\n0.5;3\n", {{"data.delimiter", ";"}}).out, predict("x,y\n0.5,3\n").out);
}

TEST_F(DataReading, TheStartSpeaksOfTheFileThatWasRead) {
  says(train(csv_words(30)), {"train.csv': 30 samples of 2 features, below a header"});
  says(predict("0.5,3\n", {{"data.header", "no"}}), {"more.csv': 1 sample of 2 features, no header"});
  const std::string text = csv_words(30);
  says(train(text.substr(text.find('\n') + 1)), {"train.csv': 30 samples of 2 features, no header"});
  says(predict("x,y\n0.5,3\n", {{"data.header", "yes"}}),
       {"more.csv': 1 sample of 2 features, below a header"});
}

TEST_F(DataReading, LabelsThatCountFromOneAreWarnedOf) {
  std::string text = "x,y,kind\n";
  for (int i = 0; i < 30; ++i)
    text +=
        std::to_string(i % 7) + ".5," + std::to_string(i % 5) + ".5," + std::to_string(1 + i % 3) + ".0\n";
  says(train(text, {{"model.layers", "dense:4"}}),
       {"warning: ", "label 0 never occurs: the labels are 1 to 3", "4 outputs", "0 0, 1 10, 2 10, 3 10"});
  text += "1,1,9\n";
  says(train(text, {{"model.layers", "dense:10"}}),
       {"6 of the 10 classes never occur: 0, 4, 5, 6, 7, 8",
        "the largest label, 9, is that of '" + csv + "' line 32, and the others reach 3"});
  text += "1,1,70000\n";
  expect_refusal(train(text), {csv + "' line 33", "label 70000", "the others reach 9"});
}

TEST_F(DataReading, NumbersAtTheEdgeInKeys) {
  const auto refused = [&](const char* key, const char* value, const std::vector<std::string>& fragments) {
    expect_refusal(train(csv_words(24), {{key, value}}), fragments);
  };
  refused("optimizer.lr", "1e-400", {"--optimizer.lr", "1e-400 is too small", "write 0"});
  const ProcessResult epsilon =
      train(csv_words(24), {{"optimizer.name", "adam"}, {"optimizer.epsilon", "1e-400"}});
  expect_refusal(epsilon, {"1e-400 is too small", "give above 1e-30"});
  EXPECT_EQ(epsilon.err.find("write 0"), std::string::npos) << epsilon.err;
  refused("optimizer.lr", "1e400", {"--optimizer.lr", "1e400 is out of range", "at most"});
  refused("optimizer.weight_decay", "-1e400", {"-1e400 is out of range"});
  refused("train.epochs", "1e400", {"1e400 is out of range"});
  refused("model.dropout", "1e-400", {"model.dropout"});
  const ProcessResult result =
      train("x,y,kind\n1e-400,2,cat\n0,2,dog\n1,3,cat\n", {{"model.layers", "dense:2"}});
  EXPECT_EQ(result.exit_code, 0) << result.describe();
}

TEST_F(DataReading, NumbersChangedInFilesOfARunAreTakenOrRefused) {
  says(train(csv_words(24), {{"data.test_fraction", "0.25"}, {"optimizer.name", "adam"}}), {});
  const std::string info = run + "/preprocessing.json";
  const std::string whole = read_file_bytes(info);
  int refused = 0;
  const auto tried = [&](const std::string& where, const std::vector<std::string>& command) {
    const ProcessResult result = lockstep(0, command, in_time());
    EXPECT_TRUE(result.exit_code == 0 || result.exit_code == 2 || result.exit_code == 3)
        << where << result.describe();
    EXPECT_EQ(count(result.err, "lockstep: error"), result.exit_code == 0 ? 0 : 1)
        << where << result.describe();
    EXPECT_EQ(result.err.find("runtime error"), std::string::npos) << where << result.err;
    refused += result.exit_code == 2 ? 1 : 0;
    return result.exit_code;
  };
  // Some of them: a process each. All of them are read in tests/trainer/checkpoint/stored_numbers_test.cpp.
  int turn = 0;
  each_number_changed(nlohmann::json::parse(whole),
                      [&](const std::string& where, const nlohmann::json& changed) {
                        if (turn++ % 11 != 0) return;
                        write_file_bytes(info, changed.dump());
                        const int code = tried(where, {"evaluate", "--run", run});
                        if (where.find("normalizer") == where.npos && !is_small_integer(where)) {
                          EXPECT_EQ(code, 2) << where;
                        }
                      });
  write_file_bytes(info, whole);
  EXPECT_GT(refused, 5);
}

TEST_F(DataReading, NumbersChangedInManifestsAreTakenOrRefused) {
  says(train(csv_words(24), {{"data.validation_fraction", "0.25"}, {"optimizer.name", "adam"}}), {});
  fs::rename(run, folder / "good");
  const auto manifests = [&] {
    std::vector<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(run))
      if (entry.path().filename() == "manifest.json") found.push_back(entry.path());
    return found;
  };
  const auto resume = [&](const std::string& where, const nlohmann::json* changed) {
    fs::remove_all(run);
    fs::copy(folder / "good", run, fs::copy_options::recursive);
    // There are several checkpoints, of which the newest whole one is taken.
    for (const std::string& path : manifests())
      if (changed != nullptr) write_file_bytes(path, changed->dump());
    const ProcessResult result =
        lockstep(0, {"train", "--resume", "--run.dir", run, "--train.epochs", "2"}, in_time());
    EXPECT_TRUE(result.exit_code == 0 || result.exit_code == 2) << where << result.describe();
    EXPECT_EQ(count(result.err, "lockstep: error"), result.exit_code == 0 ? 0 : 1)
        << where << result.describe();
    EXPECT_EQ(result.err.find("runtime error"), std::string::npos) << where << result.err;
    return result.exit_code;
  };
  EXPECT_EQ(resume("unchanged", nullptr), 0);
  int refused = 0;
  int turn = 0;
  each_number_changed(nlohmann::json::parse(read_file_bytes(manifests().front())),
                      [&](const std::string& where, nlohmann::json changed) {
                        if (turn++ % 23 != 0) return;  // a process each
                        changed.erase("sha256");
                        changed["sha256"] = sha256_hex(changed.dump());
                        refused += resume(where, &changed) == 2 ? 1 : 0;
                      });
  EXPECT_GT(refused, 5);
}

}  // namespace
}  // namespace lockstep::test
