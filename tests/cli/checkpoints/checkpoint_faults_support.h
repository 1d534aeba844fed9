#pragma once

#include <algorithm>
#include <filesystem>

#include "cli/cli_support.h"

namespace lockstep::test {

/// Every file below `path` with its bytes.
inline std::map<std::string, std::string> contents(const std::string& path) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path))
    if (entry.is_regular_file()) files[entry.path().string()] = read_file_bytes(entry.path());
  return files;
}

/// The names in all generations of a run, sorted.
inline std::vector<std::string> checkpoint_names(const std::string& run) {
  std::vector<std::string> names;
  for (const auto& generation : std::filesystem::directory_iterator(run + "/checkpoints"))
    for (const auto& entry : std::filesystem::directory_iterator(generation.path()))
      names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

/// 3 steps an epoch, a validation after each, a checkpoint every 2 steps of which one is kept.
inline std::string tiny_config() {
  return R"(
[model]
layers = dense:12 relu dense:3
[data]
format = synthetic
samples = 64
shape = 8
classes = 3
validation_fraction = 0.25
[train]
global_batch = 16
slices = 4
steps = 8
[optimizer]
name = adam
lr = 0.01
[checkpoint]
every_steps = 2
keep = 1
)";
}

class CheckpointFaults : public testing::Test {
 protected:
  void SetUp() override {
    write_file_bytes(config, tiny_config());
    const ProcessResult result = lockstep(0, train("whole"));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    want = digest(folder / "whole", true);
  }
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> args = {"train",      "--config",         config, "--run.dir",
                                     folder / dir, "--device.threads", "1"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  /// No trace of a broken-off save, and the digest of the undisturbed run.
  void expect_right(const std::string& dir, const std::string& what) {
    EXPECT_EQ(digest(folder / dir, true), want) << what;
    EXPECT_TRUE(read_file_bytes(folder / dir + "/model.safetensors") ==
                read_file_bytes(folder / "whole/model.safetensors"))
        << what;
    for (const std::string& name : checkpoint_names(folder / dir))
      EXPECT_FALSE(name.starts_with(".")) << what << " left " << name;
  }

  TempDir folder;
  const std::string config = folder / "tiny.ini";
  std::string want;
};

}  // namespace lockstep::test
