// Damaged, missing and foreign checkpoints, weights and run directories: refused with one clear sentence,
// untouched.

#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <sys/stat.h>

#include "core/digest.h"

#include "cli/cli_data.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

/// Every file below `path` with its bytes.
std::map<std::string, std::string> contents(const std::string& path) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) files[entry.path().string()] = read_file_bytes(entry.path());
  return files;
}

/// `text` with the first `from` replaced.
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

class BadRun : public testing::Test {
 protected:
  void SetUp() override {
    write_file_bytes(csv, csv_words(60));
    train("good", "dense:6 relu dense:3");
    ASSERT_EQ(lockstep(0, {"evaluate", "--run", folder / "good"}).exit_code, 0);
    fresh();
  }
  void train(const std::string& name, const std::string& layers) {
    const ProcessResult result = lockstep(0, with_flags({"train"}, {{"run.dir", folder / name},
                                                                    {"data.format", "csv"},
                                                                    {"data.train", csv},
                                                                    {"data.test_fraction", "0.2"},
                                                                    {"model.layers", layers},
                                                                    {"optimizer.name", "adam"},
                                                                    {"train.global_batch", "12"},
                                                                    {"train.slices", "3"},
                                                                    {"train.epochs", "2"}}));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
  }
  /// Puts the good run into its place anew.
  void fresh() {
    fs::remove_all(run);
    fs::copy(folder / "good", run, fs::copy_options::recursive);
  }
  void refused(const std::vector<std::string>& args, const std::vector<std::string>& fragments) {
    std::string trace = "lockstep";
    for (const std::string& a : args) trace += " " + a;
    SCOPED_TRACE(trace);
    const auto before = contents(run);
    for (const int ranks : rank_counts) expect_refusal(lockstep(ranks, args, in_time()), fragments);
    EXPECT_TRUE(contents(run) == before) << "a refusal changed the run directory";
  }
  void refused_resume(const std::vector<std::string>& fragments) {
    refused({"train", "--resume", "--run.dir", run, "--train.epochs", "3"}, fragments);
    fresh();
  }
  void refused_evaluate(const std::vector<std::string>& fragments) {
    refused({"evaluate", "--run", run}, fragments);
    fresh();
  }
  std::vector<std::string> checkpoints() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(run + "/checkpoints/gen-000001"))
      if (entry.path().filename().string().starts_with("step-")) found.push_back(entry.path());
    return found;
  }

  std::vector<int> rank_counts = {0, 3};  // 0: bare
  TempDir folder;
  const std::string csv = folder / "train.csv";
  const std::string run = folder / "run";
};

TEST_F(BadRun, TheGoodOneResumes) {
  ASSERT_EQ(checkpoints().size(), 2u);
  const ProcessResult result = lockstep(3, {"train", "--resume", "--run.dir", run, "--train.epochs", "3"});
  EXPECT_EQ(result.exit_code, 0) << result.describe();
}

TEST_F(BadRun, FilesBesideTheCheckpointThatAreNotOfThisRun) {
  const auto edit = [&](const std::string& path, const std::string& from, const std::string& to) {
    const std::string text = read_file_bytes(path);
    fs::remove(path);
    write_file_bytes(path, replaced(text, from, to));
  };
  edit(run + "/config.resolved.ini", "lr = ", "lr = 1");
  refused_resume({"optimizer.lr is \"1", "config.resolved.ini", "was saved with", "--overwrite"});
  edit(run + "/config.resolved.ini", "seed = 1", "seed = 3");
  refused_resume({"run.seed is \"3\"", "was saved with \"1\""});
  edit(run + "/preprocessing.json", "\"mean\"", " \"mean\"");
  refused_resume({"preprocessing.json", "is not the file that this run was started with"});
  // Whole by its checksums, and yet not where that step is.
  rank_counts = {0};
  for (const std::string& checkpoint : checkpoints()) {
    const std::string path = checkpoint + "/manifest.json";
    nlohmann::json manifest = nlohmann::json::parse(read_file_bytes(path));
    manifest["position"] = manifest["position"].get<std::int64_t>() - 5;
    manifest.erase("sha256");
    manifest["sha256"] = sha256_hex(manifest.dump());
    fs::remove(path);
    write_file_bytes(path, manifest.dump(1) + "\n");
  }
  refused_resume({"stands at data position", "checkpoint is damaged"});
}

TEST_F(BadRun, ABitThatFlippedInTheWeightsOfARunIsNoticed) {
  const std::string path = run + "/model.safetensors";
  const std::string want = digest(run);
  std::string bytes = read_file_bytes(path);
  bytes[bytes.size() - 5] = static_cast<char>(bytes[bytes.size() - 5] ^ 64);
  fs::remove(path);
  write_file_bytes(path, bytes);
  refused({"evaluate", "--run", run}, {path, "is damaged", "the newest checkpoint stands in for it"});
  rank_counts = {0};
  refused({"digest", run}, {path, "is damaged"});
  refused({"digest", path}, {path, "is damaged"});
  refused({"export", "--run", run, "--format", "safetensors", "--output", folder / "out"},
          {path, "is damaged"});
  refused({"inspect", path}, {path, "is damaged"});
  EXPECT_NE(lockstep(0, {"inspect", run}).out.find("is damaged"), std::string::npos);
  fs::remove(path);
  EXPECT_EQ(digest(run), want);
}

TEST_F(BadRun, ARunThatLinksToAnotherOneLeavesThatAsItIs) {
  const std::string other = folder / "good/checkpoints/gen-000001";
  fs::remove_all(run + "/checkpoints/gen-000001");
  fs::create_directory_symlink(other, run + "/checkpoints/gen-000001");
  const auto before = contents(other);
  const ProcessResult longer = lockstep(0, {"train", "--resume", "--run.dir", run, "--train.epochs", "8"});
  EXPECT_EQ(longer.exit_code, 0) << longer.describe();
  EXPECT_TRUE(contents(other) == before);
}

TEST_F(BadRun, ForeignFilesInACheckpointAreNotRemoved) {
  const std::string notes = checkpoints().front() + "/notes.txt";
  const std::string strange = run + "/checkpoints/gen-000001/.saving-foo";
  write_file_bytes(notes, "mine");
  fs::create_directory(strange);
  const ProcessResult result = lockstep(0, {"train", "--resume", "--run.dir", run, "--train.epochs", "8"});
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_TRUE(fs::exists(notes));
  EXPECT_TRUE(fs::exists(strange));
}

TEST_F(BadRun, CheckpointsThatAreNotWhole) {
  const auto spoil_all = [&](const char* file, const auto& spoil) {
    for (const std::string& c : checkpoints()) {
      const std::string path = c + "/" + file;
      const std::string bytes = read_file_bytes(path);
      fs::remove(path);
      if (const std::optional<std::string> spoiled = spoil(bytes)) write_file_bytes(path, *spoiled);
    }
  };
  using Maybe = std::optional<std::string>;
  rank_counts = {0};
  for (const char* file : {"manifest.json", "model.safetensors", "optimizer.safetensors"}) {
    SCOPED_TRACE(file);
    for (const auto& spoil : std::vector<std::function<Maybe(const std::string&)>>{
             [](const std::string&) { return Maybe(); }, [](const std::string&) { return Maybe(""); },
             [](const std::string& b) { return Maybe(b.substr(0, b.size() - 9)); },
             [](const std::string&) { return Maybe("x,y,kind\n1,2,cat\n"); }}) {
      spoil_all(file, spoil);
      refused_resume({run + "/checkpoints", "no whole checkpoint", "--overwrite"});
    }
  }
  rank_counts = {0, 3};
  for (const std::string& c : checkpoints()) fs::remove_all(c);
  refused_resume({run + "/checkpoints", "no whole checkpoint"});

  // The reasons stand beside the one error, each checkpoint once.
  spoil_all("model.safetensors", [](const std::string& b) { return Maybe(b.substr(0, b.size() - 9)); });
  const ProcessResult result =
      lockstep(3, {"train", "--resume", "--run.dir", run, "--train.epochs", "3"}, in_time());
  expect_refusal(result, {run + "/checkpoints", "no whole checkpoint"});
  EXPECT_EQ(count(result.err, "passed over the checkpoint"), 2) << result.err;
}

TEST_F(BadRun, RunDirectoriesThatLackSomething) {
  fs::remove(run + "/config.resolved.ini");
  refused_resume({run, "config.resolved.ini"});
  fs::remove(run + "/config.resolved.ini");
  refused_evaluate({run, "holds no run", "config.resolved.ini"});
  for (const std::string text : {"", "[model]\nlayrs = dense:3\n"}) {
    write_file_bytes(run + "/config.resolved.ini", text);
    refused_resume({run + "/config.resolved.ini"});
  }
  for (const char* text : {"", "{", "{}", "[1,2]", "\x01\x02"}) {
    SCOPED_TRACE(text);
    rank_counts = std::string(text) == "{}" ? std::vector{0, 3} : std::vector{0};
    write_file_bytes(run + "/preprocessing.json", text);
    refused_resume({"preprocessing.json"});
    write_file_bytes(run + "/preprocessing.json", text);
    refused_evaluate({"preprocessing.json"});
  }
  for (const char* text : {"", "{", "[]", "{\"files\":[],\"changes\":0}"}) {
    SCOPED_TRACE(text);
    rank_counts = std::string(text) == "{" ? std::vector{0, 3} : std::vector{0};
    write_file_bytes(run + "/data.json", text);
    refused_evaluate({run + "/data.json", "put back the file", "or remove it"});
  }
  rank_counts = {0, 3};
  fs::remove(run + "/preprocessing.json");
  refused_evaluate({"preprocessing.json", "does not exist"});
  fs::remove(run + "/model.safetensors");
  fs::remove_all(run + "/checkpoints");
  refused_evaluate({run, "model.safetensors", "checkpoint"});
  refused({"evaluate", "--run", run, "--weights", "best"}, {run, "best", "validation"});
  refused({"evaluate", "--run", run, "--split", "validation"}, {"--split validation", "data.validation"});
  refused({"evaluate", "--run", csv}, {csv, "not a directory"});
  refused({"predict", "--run", run, "--input", folder / "absent.csv"}, {"absent.csv", "--input"});
  refused({"predict", "--run", run, "--input", csv, "--output", folder / "absent/out.jsonl"},
          {"absent/out.jsonl"});
  refused({"predict", "--run", run, "--input", csv, "--output", folder.path()},
          {"--output", folder.path(), "directory"});
  rank_counts = {0};  // a command of one process: under a launcher every copy would say it
  refused({"export", "--run", run, "--output", folder / "absent/m.safetensors"}, {"absent/m.safetensors"});
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  refused({"export", "--run", run, "--output", folder / "pipe"}, {"--output", folder / "pipe", "not a file"});
  EXPECT_TRUE(fs::is_fifo(folder / "pipe"));
  refused({"export", "--run", run, "--output", folder / "m.onnx", "--format", "onnx"},
          {"--format", "onnx", "safetensors"});
  EXPECT_FALSE(fs::exists(folder / "absent"));
}

TEST_F(BadRun, AResumeWithAnotherModelDataOrMachine) {
  // By flag.
  refused({"train", "--resume", "--run.dir", run, "--model.layers", "dense:7 relu dense:3"},
          {"--model.layers", "dense:6 relu dense:3", "--resume"});
  // By hand: the checkpoint itself is held against the model.
  const std::string ini = run + "/config.resolved.ini";
  const std::string text = read_file_bytes(ini);
  write_file_bytes(ini, replaced(text, "dense:6 relu dense:3", "dense:7 relu dense:3"));
  refused_resume({"model.safetensors", "dense2.weight", "3x6", "3x7"});
  write_file_bytes(ini, replaced(text, "dense:6 relu dense:3", "dense:6 relu dense:6 relu dense:3"));
  refused_resume({"model.safetensors", "dense3."});
  write_file_bytes(ini, replaced(text, "slices = 3", "slices = 6"));
  refused_resume({"train.slices"});
  // The optimizer state that another optimizer needs is not there.
  write_file_bytes(ini,
                   replaced(replaced(text, "name = adam", "name = sgd"), "momentum = 0", "momentum = 0.9"));
  refused_resume({"optimizer.safetensors", "momentum"});
  // Other data under the same name: position and splits would mean nothing.
  write_file_bytes(csv, csv_words(48));
  refused_resume({csv, "60 samples"});
  write_file_bytes(csv, csv_words(60));
  // Another instruction set.
  ProcessOptions options = in_time();
  options.env["ONEDNN_MAX_CPU_ISA"] = "AVX2";
  const std::vector<std::string> resume = {"train", "--resume", "--run.dir", run, "--train.epochs", "3"};
  const ProcessResult other = lockstep(2, resume, options);
  if (other.exit_code != 0) expect_refusal(other, {"another kind of machine", "--allow-numeric-change"});
  std::vector<std::string> accepted = resume;
  accepted.push_back("--allow-numeric-change");
  EXPECT_EQ(lockstep(2, accepted, options).exit_code, 0);
}

/// The header and the data of a weight file.
std::pair<std::string, std::string> parts_of(const std::string& file) {
  std::uint64_t n = 0;
  std::memcpy(&n, file.data(), sizeof n);
  return {file.substr(8, n), file.substr(8 + n)};
}
std::string joined(const std::string& header, const std::string& data) {
  const std::uint64_t n = header.size();
  return std::string(reinterpret_cast<const char*>(&n), 8) + header + data;
}

TEST_F(BadRun, WeightFilesThatLie) {
  train("wider", "dense:7 relu dense:3");
  train("deeper", "dense:6 relu dense:6 relu dense:3");
  const std::string weights = run + "/model.safetensors";
  const std::string good = read_file_bytes(weights);
  const auto [header, data] = parts_of(good);
  write_file_bytes(weights, read_file_bytes(folder / "wider/model.safetensors"));
  refused_evaluate({weights, "dense2.weight", "3x6", "3x7"});
  write_file_bytes(weights, read_file_bytes(folder / "deeper/model.safetensors"));
  refused_evaluate({weights, "dense3."});

  const nlohmann::json tensors = nlohmann::json::parse(header);
  const auto with = [&](const char* name, const auto& change) {
    nlohmann::json lying = tensors;
    change(lying[name]);
    write_file_bytes(weights, joined(lying.dump(), data));
  };
  const auto refused_weights = [&](const std::vector<std::string>& fragments) {
    rank_counts = {0};
    refused({"digest", weights}, fragments);
    refused({"inspect", weights}, fragments);
    rank_counts = {0, 3};
    refused_evaluate(fragments);
  };
  with("dense1.weight", [](nlohmann::json& t) { t["data_offsets"][1] = std::uint64_t{1} << 60; });
  refused_weights({weights, "dense1.weight"});
  with("dense1.weight", [](nlohmann::json& t) { t["data_offsets"] = {1000000, 1000048}; });
  refused_weights({weights, "dense1.weight"});
  with("dense2.bias", [](nlohmann::json& t) { t["data_offsets"] = {0, 12}; });
  refused_weights({weights});
  with("dense1.weight", [](nlohmann::json& t) { t["shape"] = {60, 20}; });
  refused_weights({weights, "dense1.weight"});
  write_file_bytes(weights, good.substr(0, good.size() - 1));
  refused_weights({weights});
  write_file_bytes(weights, good + "x");
  refused_weights({weights});
  write_file_bytes(weights, std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{\"a\":", 14));
  refused_weights({weights});
  write_file_bytes(weights, "");
  refused_weights({weights, "empty"});
  fs::remove(weights);
  fs::create_directory(weights);
  refused({"evaluate", "--run", run}, {weights, "directory"});
}

}  // namespace
}  // namespace lockstep::test
