// The ready configs: each trains, on the data it names, for a bounded number of steps, and ends in the
// weights that config_digests.tsv holds for this kind of machine.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

const std::string root = LOCKSTEP_SOURCE_DIR;

class Configs : public testing::Test {
 protected:
  /// Trains on two ranks from the folder that holds examples/ and gives the lines of metrics.jsonl.
  std::vector<nlohmann::json> train(const std::string& config, const std::vector<std::string>& more) {
    std::vector<std::string> args = {"train", "--config", "configs/" + config + ".ini", "--run.dir",
                                     folder / config};
    args.insert(args.end(), more.begin(), more.end());
    ProcessOptions options;
    options.directory = root;
    options.timeout_s = 200;
    const ProcessResult result = lockstep(2, args, options);
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    if (result.exit_code != 0) return {};
    compare_digest(config, folder / config);
    return json_lines(folder / config + "/metrics.jsonl");
  }
  /// What decides bits of a machine, as its checkpoints tell: C library, instruction set, caches.
  static std::string kind_of_machine(const std::string& run) {
    std::string kind;
    const std::string shown = lockstep(0, {"inspect", newest_checkpoint(run)}).out;
    for (const std::string name : {"libc", "instruction set", "caches"}) {
      const std::string mark = "  " + name + ": ";
      const std::size_t at = shown.find(mark);
      EXPECT_NE(at, std::string::npos) << shown;
      if (at == std::string::npos) return "";
      const std::size_t begin = at + mark.size();
      kind += (kind.empty() ? "" : ", ") + shown.substr(begin, shown.find('\n', begin) - begin);
    }
    return kind;
  }
  static std::string newest_checkpoint(const std::string& run) {
    std::string newest;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(run + "/checkpoints"))
      if (entry.path().filename().string().starts_with("step-"))
        newest = std::max(newest, entry.path().string());
    return newest;
  }
  /// The digest of the run's weights against the committed one. A digest that must change is replaced in the
  /// file, with the reason in the commit; LOCKSTEP_RECORD_DIGESTS=FILE appends the lines of another machine.
  void compare_digest(const std::string& config, const std::string& run) {
    const std::string kind = kind_of_machine(run), found = digest(run);
    if (const char* record = std::getenv("LOCKSTEP_RECORD_DIGESTS"))
      std::ofstream(record, std::ios::app) << kind << '\t' << config << '\t' << found << '\n';
    std::ifstream in(root + "/tests/cli/config_digests.tsv");
    ASSERT_TRUE(in);
    bool known = false;
    for (std::string line; std::getline(in, line);) {
      if (!line.starts_with(kind + '\t' + config + '\t')) continue;
      known = true;
      EXPECT_EQ(found, line.substr(line.rfind('\t') + 1)) << "the weights of " << config << " have changed";
    }
    if (!known) unknown_kind_ = kind;
  }
  void TearDown() override {
    if (!unknown_kind_.empty() && !HasFailure())
      GTEST_SKIP() << "all but the digest was checked: config_digests.tsv has none for a machine with "
                   << unknown_kind_;
  }
  /// The value of `name` in the last line of the kind `kind`; NaN where there is none.
  static double last(const std::vector<nlohmann::json>& lines, const std::string& kind,
                     const std::string& name) {
    double value = std::nan("");
    for (const auto& line : lines)
      if (line["kind"] == kind && line.contains(name)) value = line[name];
    return value;
  }
  static double first(const std::vector<nlohmann::json>& lines, const std::string& kind,
                      const std::string& name) {
    return last({lines.rbegin(), lines.rend()}, kind, name);
  }
  TempDir folder;

 private:
  std::string unknown_kind_;
};

class FashionConfigs : public Configs {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz"))
      LOCKSTEP_SKIP_WITHOUT("data", "Fashion-MNIST is not installed (Debian's dataset-fashion-mnist)");
  }
};

TEST_F(FashionConfigs, FashionCnn) {
  const auto lines = train("fashion_cnn", {"--train.steps", "120", "--schedule.warmup_steps", "20"});
  EXPECT_EQ(last(lines, "test", "samples"), 10000);
  EXPECT_GT(last(lines, "test", "accuracy"), 0.75);
}

TEST_F(FashionConfigs, KerasCnn) {
  const auto lines = train("keras_cnn", {"--train.steps", "300"});
  EXPECT_EQ(last(lines, "test", "samples"), 10000);
  EXPECT_GT(last(lines, "test", "accuracy"), 0.7);
}

TEST_F(FashionConfigs, MlpSoftmax) {
  const auto lines = train("mlp_softmax", {"--train.steps", "300", "--log.every_steps", "100"});
  EXPECT_GT(last(lines, "test", "accuracy"), 0.75);
  EXPECT_LT(last(lines, "train", "loss"), 1.0);
}

TEST_F(FashionConfigs, LinearSvm) {
  const auto lines = train("linear_svm", {"--train.steps", "200", "--log.every_steps", "100"});
  EXPECT_GT(last(lines, "test", "accuracy"), 0.75);
}

TEST_F(FashionConfigs, LionMlp) {
  const auto lines = train("lion_mlp", {"--train.steps", "300", "--log.every_steps", "100"});
  EXPECT_GT(last(lines, "test", "accuracy"), 0.75);
  EXPECT_LT(last(lines, "train", "loss"), 1.0);
}

TEST_F(Configs, RegressionMlp) {
  // 350 of the 500 rows train, in batches of 32: 11 steps an epoch.
  const auto lines = train("regression_mlp", {"--train.epochs", "40"});
  const double begin = first(lines, "epoch", "loss"), end = last(lines, "epoch", "loss");
  EXPECT_LT(end, 0.1 * begin);
  EXPECT_EQ(last(lines, "test", "samples"), 100);
  EXPECT_LT(last(lines, "test", "loss"), 0.2 * begin);
  EXPECT_LT(last(lines, "epoch", "validation_loss"), 0.2 * begin);
}

TEST_F(Configs, Resnet18Synthetic) {
  const auto lines = train("resnet18_synthetic", {"--train.steps", "3", "--data.samples", "96",
                                                  "--train.global_batch", "32", "--log.every_steps", "1"});
  EXPECT_EQ(last(lines, "train", "step"), 3);
  // Ten classes, at the start of the training: about ln 10.
  EXPECT_NEAR(first(lines, "train", "loss"), 2.3, 1.0);
}

// ImageNet is not to be had here: made-up images of 32x32 take its place, the recipe stays.
TEST_F(Configs, Resnet50Imagenet) {
  std::ifstream in(root + "/configs/resnet50_imagenet.ini");
  std::string text;
  for (std::string line; std::getline(in, line);)
    if (line.find("data/imagenet/") == std::string::npos) text += line + "\n";
  const std::string config = folder / "resnet50.ini";
  std::ofstream(config) << text;
  ProcessOptions options;
  options.timeout_s = 300;
  const ProcessResult result = lockstep(2,
                                        {"train",
                                         "--config",
                                         config,
                                         "--run.dir",
                                         folder / "run",
                                         "--data.format",
                                         "synthetic",
                                         "--data.shape",
                                         "3x32x32",
                                         "--data.classes",
                                         "10",
                                         "--data.samples",
                                         "32",
                                         "--data.normalize",
                                         "none",
                                         "--train.epochs",
                                         "0",
                                         "--train.steps",
                                         "2",
                                         "--train.global_batch",
                                         "16",
                                         "--train.slices",
                                         "2",
                                         "--log.every_steps",
                                         "1"},
                                        options);
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  compare_digest("resnet50_imagenet", folder / "run");
  const auto lines = json_lines(folder / "run/metrics.jsonl");
  EXPECT_EQ(last(lines, "train", "step"), 2);
  EXPECT_NEAR(first(lines, "train", "loss"), 2.3, 1.0);
  // Warm-up: the second step has two 25,025ths of the full rate.
  EXPECT_NEAR(last(lines, "train", "lr"), 0.1 * 2 / 25025, 1e-12);
}

TEST_F(Configs, EveryConfigIsTriedHere) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(root + "/configs"))
    names.push_back(entry.path().stem());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names,
            (std::vector<std::string>{"fashion_cnn", "keras_cnn", "linear_svm", "lion_mlp", "mlp_softmax",
                                      "regression_mlp", "resnet18_synthetic", "resnet50_imagenet"}));
}

}  // namespace
}  // namespace lockstep::test
