// What the data hold decides, where they lie does not: runs whose data moved or changed.

#include <filesystem>
#include <functional>
#include <unistd.h>

#include "core/digest.h"

#include "cli/cli_data.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

/// Rows "x,y,kind" of which row `odd` has another word than csv_words() gives it.
std::string with_another_label(const std::string& rows, int odd) {
  std::string text = rows;
  std::size_t line = 0;
  for (int i = 0; i <= odd; ++i) line = text.find('\n', line) + 1;
  const std::size_t word = text.find('\n', line) - 3;
  return text.replace(word, 3, text.substr(word, 3) == "cat" ? "emu" : "cat");
}

void put(const std::string& path, const std::string& bytes) {
  fs::remove(path);
  write_file_bytes(path, bytes);
}

class DataIdentity : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(folder / "here");
    fs::create_directory(folder / "there");
    write_file_bytes(folder / "here/train.csv", csv_words(60));
    write_file_bytes(folder / "here/test.csv", csv_words(30));
    ProcessOptions options = in_here();
    ASSERT_EQ(lockstep(0, train("whole", {{"train.steps", "12"}}), options).exit_code, 0);
    ASSERT_EQ(lockstep(0, train("good", {{"train.steps", "7"}}), options).exit_code, 0);
    wanted = digest(folder / "whole", true);
    fresh();
  }
  ProcessOptions in_here() const {
    ProcessOptions options = in_time();
    options.directory = folder / "here";
    return options;
  }
  std::vector<std::string> train(const std::string& run_name, const Flags& more,
                                 const std::string& data = "train.csv") const {
    std::vector<std::string> args = with_flags({"train"}, {{"run.dir", folder / run_name},
                                                           {"data.format", "csv"},
                                                           {"data.train", data},
                                                           {"data.test", "test.csv"},
                                                           {"model.layers", "dense:6 relu dense:3"},
                                                           {"optimizer.name", "adam"},
                                                           {"schedule.steps", "12"},
                                                           {"checkpoint.every_steps", "4"},
                                                           {"train.global_batch", "12"},
                                                           {"train.slices", "3"}});
    return with_flags(args, more);
  }
  std::vector<std::string> resume(const Flags& more = {}, const std::string& steps = "12") const {
    return with_flags({"train", "--resume", "--run.dir", run, "--train.steps", steps}, more);
  }
  /// Puts the run of 7 steps into its place anew.
  void fresh() const {
    fs::remove_all(run);
    fs::copy(folder / "good", run, fs::copy_options::recursive);
  }
  std::map<std::string, std::string> contents() const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(run))
      if (entry.is_regular_file()) files[entry.path().string()] = read_file_bytes(entry.path());
    return files;
  }
  void expect_refused(const std::vector<std::string>& args, const std::vector<std::string>& fragments) const {
    for (const int ranks : {0, 2}) {
      const auto before = contents();
      expect_refusal(lockstep(ranks, args, in_here()), fragments);
      EXPECT_TRUE(contents() == before) << "a refusal changed the run directory";
      EXPECT_FALSE(fs::exists(run + "/checkpoints/gen-000002"));
    }
  }
  void expect_resumes(const std::vector<std::string>& args, const ProcessOptions& options) const {
    const ProcessResult result = lockstep(2, args, options);
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(result.err.find("warning"), std::string::npos) << result.err;
    EXPECT_EQ(digest(run, true), wanted);
  }
  nlohmann::json newest_manifest() const {
    std::string newest;
    for (const auto& entry : fs::recursive_directory_iterator(run + "/checkpoints"))
      if (entry.path().filename() == "manifest.json") newest = std::max(newest, entry.path().string());
    return nlohmann::json::parse(read_file_bytes(newest));
  }
  /// Changes every manifest of the run, and makes its checksum right again.
  void edit_manifests(const std::function<void(nlohmann::json&)>& edit) const {
    for (const auto& entry : fs::recursive_directory_iterator(run + "/checkpoints")) {
      if (entry.path().filename() != "manifest.json") continue;
      nlohmann::json manifest = nlohmann::json::parse(read_file_bytes(entry.path()));
      edit(manifest);
      manifest.erase("sha256");
      manifest["sha256"] = sha256_hex(manifest.dump());
      put(entry.path(), manifest.dump(1) + "\n");
    }
  }

  TempDir folder;
  const std::string run = folder / "run";
  std::string wanted;
};

TEST_F(DataIdentity, ARunWhoseDataMovedGoesOnToTheSameBits) {
  // The same file by its absolute path, and from another folder.
  expect_resumes(resume({{"data.train", folder / "here/train.csv"}, {"data.test", folder / "here/test.csv"}}),
                 in_time());
  const std::string ini = read_file_bytes(run + "/config.resolved.ini");
  EXPECT_NE(ini.find("train = " + (folder / "here/train.csv")), std::string::npos) << ini;
  // What was resumed once needs no flag again.
  EXPECT_EQ(lockstep(0, resume(), in_time()).exit_code, 0);
  // Another name and folder.
  fresh();
  fs::rename(folder / "here/train.csv", folder / "there/moved.csv");
  expect_refused(resume(), {"data.train: 'train.csv' does not exist", "--data.train PATH"});
  expect_resumes(resume({{"data.train", folder / "there/moved.csv"}}), in_here());
  // By a config file of its own, and packed.
  fresh();
  ASSERT_EQ(run_process({"gzip", "-k", folder / "there/moved.csv"}).exit_code, 0);
  write_file_bytes(folder / "moved.ini", "[data]\ntrain = ../there/moved.csv.gz\n");
  expect_resumes(resume({{"config", folder / "moved.ini"}}), in_here());
}

TEST_F(DataIdentity, LabelsThatChangedUnderTheSamePathAreRefusedUnlessAllowed) {
  const std::string other = with_another_label(csv_words(60), 17);
  ASSERT_NE(other, csv_words(60));
  put(folder / "here/train.csv", other);
  expect_refused(resume(), {"data.train", "labels", "'train.csv'", "are others",
                            "go on with these from step 7", "--allow-data-change"});
  std::vector<std::string> allowed = resume();
  allowed.push_back("--allow-data-change");
  const ProcessResult result = lockstep(2, allowed, in_here());
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(count(result.err, "the data change with step 8: data.train"), 1) << result.err;
  EXPECT_NE(digest(run, true), wanted);
  // Recorded in the metrics, the manifest and the run directory.
  int lines = 0;
  for (const nlohmann::json& line : json_lines(run + "/metrics.jsonl"))
    if (line["kind"] == "data_change") {
      ++lines;
      EXPECT_EQ(line["step"], 7);
      EXPECT_NE(line["what"].get<std::string>().find("labels"), std::string::npos) << line;
    }
  EXPECT_EQ(lines, 1);
  const nlohmann::json data = newest_manifest()["extra"]["data"];
  ASSERT_EQ(data["changes"].size(), 1u) << data;
  EXPECT_EQ(data["changes"][0]["step"], 7);
  EXPECT_EQ(nlohmann::json::parse(read_file_bytes(run + "/data.json")), data);
  // These are the run's data from here on.
  EXPECT_EQ(lockstep(0, resume({}, "14"), in_here()).exit_code, 0);
  put(folder / "here/train.csv", csv_words(60));
  expect_refusal(lockstep(0, resume({}, "16"), in_here()), {"data.train", "labels"});
}

TEST_F(DataIdentity, OtherKindsOfChangeAreRefusedByName) {
  // An input; a file of the test; one that was not there, and one that no longer is.
  std::string text = csv_words(60);
  put(folder / "here/train.csv", text.replace(text.find("\n0.0,") + 3, 1, "5"));
  expect_refused(resume(), {"data.train", "the inputs in 'train.csv' are others"});
  put(folder / "here/train.csv", csv_words(60));
  put(folder / "here/test.csv", with_another_label(csv_words(30), 3));
  expect_refused(resume(), {"data.test", "labels", "'test.csv' are others", "--allow-data-change"});
  put(folder / "here/test.csv", csv_words(33));
  expect_refused(resume(), {"data.test: 'test.csv' holds 33 samples instead of 30"});
  put(folder / "here/test.csv", csv_words(30));
  expect_refused(resume({{"data.validation", "test.csv"}}), {"data.validation", "is given", "none before"});
  expect_refused(resume({{"data.test", ""}}), {"data.test", "there is none", "'test.csv'"});
  // More samples would move the data position, whatever is allowed.
  put(folder / "here/train.csv", csv_words(63));
  std::vector<std::string> allowed = resume();
  allowed.push_back("--allow-data-change");
  expect_refused(allowed, {"train.csv", "began with 60 samples"});
  // Line ends and blanks are no content.
  text.clear();
  for (const char c : csv_words(60)) text += c == '\n' ? "\r\n" : c == ',' ? " , " : std::string(1, c);
  put(folder / "here/train.csv", text);
  expect_resumes(resume(), in_here());
}

TEST_F(DataIdentity, LabelsOfImagesAreContentToo) {
  write_file_bytes(folder / "here/a-images-idx3-ubyte", idx_images(60));
  write_file_bytes(folder / "here/a-labels-idx1-ubyte", idx_labels(60));
  const Flags flags = {{"run.dir", folder / "images"},
                       {"data.train", "a-images-idx3-ubyte"},
                       {"model.layers", "flatten dense:3"},
                       {"train.global_batch", "12"},
                       {"train.slices", "3"},
                       {"train.steps", "5"}};
  ASSERT_EQ(lockstep(0, with_flags({"train"}, flags), in_here()).exit_code, 0);
  std::string labels = idx_labels(60);
  labels[20] = static_cast<char>((labels[20] + 1) % 3);
  put(folder / "here/a-labels-idx1-ubyte", labels);
  const std::vector<std::string> args = {"train",           "--resume",      "--run.dir",
                                         folder / "images", "--train.steps", "8"};
  expect_refusal(lockstep(2, args, in_here()), {"data.train", "labels", "'a-labels-idx1-ubyte'"});
  put(folder / "here/a-labels-idx1-ubyte", idx_labels(60));
  fs::rename(folder / "here/a-labels-idx1-ubyte", folder / "there/answers");
  EXPECT_EQ(lockstep(2, with_flags(args, {{"data.train_labels", "../there/answers"}}), in_here()).exit_code,
            0);
}

TEST_F(DataIdentity, ARunOfAnOlderLockstepAdoptsTheDataWithAWarning) {
  edit_manifests([](nlohmann::json& manifest) {
    manifest["version"] = 2;
    manifest["config_sha256"] = sha256_hex(manifest["config"].get<std::string>());
    manifest["extra"].erase("data");
  });
  fs::remove(run + "/data.json");
  const ProcessResult result = lockstep(2, resume({}, "9"), in_here());
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(count(result.err, "does not tell what its data held"), 1) << result.err;
  ASSERT_TRUE(newest_manifest()["extra"].contains("data"));
  const ProcessResult again = lockstep(0, resume(), in_here());
  EXPECT_EQ(again.exit_code, 0) << again.describe();
  EXPECT_EQ(again.err.find("warning"), std::string::npos) << again.err;
  EXPECT_EQ(digest(run, true), wanted);
  put(folder / "here/train.csv", with_another_label(csv_words(60), 5));
  expect_refusal(lockstep(0, resume({}, "14"), in_here()), {"data.train", "labels"});
}

TEST_F(DataIdentity, RanksThatReadDifferentDataAreRefusedBeforeTheFirstStep) {
  write_file_bytes(folder / "there/train.csv", with_another_label(csv_words(60), 41));
  write_file_bytes(folder / "there/test.csv", csv_words(30));
  const auto on_two = [&](const std::vector<std::string>& args) {
    std::vector<std::string> argv = {"mpirun", "--oversubscribe", "--bind-to", "none"};
    for (const char* name : {"here", "there"}) {
      if (name == std::string("there")) argv.emplace_back(":");
      argv.insert(argv.end(),
                  {"-n", name == std::string("here") ? "2" : "1", "-wdir", folder / name, LOCKSTEP_PROGRAM});
      argv.insert(argv.end(), args.begin(), args.end());
    }
    return run_process(argv, with_mpirun_env(in_time()));
  };
  const std::vector<std::string> who = {"rank 2 (on ", "/there')", "other data than rank 0",
                                        "data.train",  "labels",   "'train.csv'"};
  expect_refusal(on_two(train("fresh", {{"train.steps", "12"}})), who);
  EXPECT_FALSE(fs::exists(folder / "fresh"));
  const auto before = contents();
  expect_refusal(on_two(resume()), who);
  EXPECT_TRUE(contents() == before);
  // The same values under other names.
  const auto renamed = [](std::string text, const std::string& from, const std::string& to) {
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
      text.replace(at, from.size(), to);
    return text;
  };
  const std::string words = csv_words(60);
  const std::string column = words.substr(0, words.find(','));
  write_file_bytes(folder / "there/train.csv", "zz" + words.substr(column.size()));
  write_file_bytes(folder / "there/test.csv", "zz" + csv_words(30).substr(column.size()));
  expect_refusal(on_two(train("fresh", {{"train.steps", "12"}})),
                 {"rank 2 (on ", "/there')", "column 1 is named 'zz' instead of '" + column + "'"});
  write_file_bytes(folder / "there/train.csv", renamed(words, "emu", "fox"));
  write_file_bytes(folder / "there/test.csv", renamed(csv_words(30), "emu", "fox"));
  expect_refusal(on_two(train("fresh", {{"train.steps", "12"}})),
                 {"rank 2 (on ", "data.train: class ", "is named 'fox' instead of 'emu'"});
  EXPECT_FALSE(fs::exists(folder / "fresh"));
  // Other numbers of samples, and commands that read a run.
  write_file_bytes(folder / "there/test.csv", csv_words(33));
  expect_refusal(on_two({"evaluate", "--run", run}), {"rank 2", "data.test", "33 samples instead of 30"});
  write_file_bytes(folder / "before.jsonl", "what was there before");
  expect_refusal(
      on_two({"predict", "--run", run, "--input", "test.csv", "--output", folder / "before.jsonl"}),
      {"rank 2", "--input", "33 samples instead of 30"});
  EXPECT_EQ(read_file_bytes(folder / "before.jsonl"), "what was there before");
}

TEST_F(DataIdentity, EvaluateSaysThatTheFilesOfTheRunHoldOtherData) {
  const ProcessResult same = lockstep(0, {"evaluate", "--run", run}, in_here());
  EXPECT_EQ(same.err.find("warning"), std::string::npos) << same.err;
  put(folder / "here/test.csv", with_another_label(csv_words(30), 3));
  const ProcessResult other = lockstep(2, {"evaluate", "--run", run}, in_here());
  EXPECT_EQ(other.exit_code, 0) << other.describe();
  EXPECT_EQ(count(other.err, "warning: data.test"), 1) << other.err;
  // Data of the user's own are none of the run's.
  const ProcessResult own = lockstep(0, {"evaluate", "--run", run, "--data.test", "test.csv"}, in_here());
  EXPECT_EQ(own.err.find("warning"), std::string::npos) << own.err;
}

TEST_F(DataIdentity, TheDigestOfTheConfigLeavesPathsOut) {
  const std::string before = newest_manifest()["config_sha256"];
  fs::copy(folder / "here/train.csv", folder / "there/copy.csv");
  fs::remove_all(run);
  ASSERT_EQ(lockstep(0, train("run", {{"train.steps", "7"}}, "../there/copy.csv"), in_here()).exit_code, 0);
  EXPECT_EQ(newest_manifest()["config_sha256"], before);
  fs::remove_all(run);
  ASSERT_EQ(lockstep(0, train("run", {{"train.steps", "7"}, {"run.seed", "2"}}), in_here()).exit_code, 0);
  EXPECT_NE(newest_manifest()["config_sha256"], before);
}

}  // namespace
}  // namespace lockstep::test
