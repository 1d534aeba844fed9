#pragma once

#include <algorithm>
#include <filesystem>
#include <gmock/gmock.h>
#include <set>

#include "cli/cli_data.h"

// Small runs on CSV data, and what their commands write.

namespace lockstep::test {

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
      std::filesystem::remove(folder / name);
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

}  // namespace lockstep::test
