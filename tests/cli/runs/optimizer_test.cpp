// What the optimizer is told from outside: rules with norms, groups and frozen parameters in a whole run, in
// one that is stopped and resumed on other ranks, and a resume with others.

#include <filesystem>

#include "cli/cli_data.h"
#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

class OptimizerRuns : public testing::Test {
 protected:
  ProcessResult train(int ranks, const std::string& run, std::vector<std::string> more) {
    std::vector<std::string> args = {"train", "--config", config, "--run.dir", folder / run};
    args.insert(args.end(), more.begin(), more.end());
    return lockstep(ranks, args);
  }
  void SetUp() override {
    std::string text = small_config();
    const std::string rule = "name = adamw\n";
    text.replace(text.find(rule), rule.size(),
                 "name = lamb\ndecay_norms = false\ngroups = *.bias: lr=2x; conv1.*: lr=0.5x, adapt=no\n");
    const std::string model = "[model]\n";
    text.replace(text.find(model), model.size(), model + "freeze = bn1.weight\n");
    write_file_bytes(config, text);
  }
  TempDir folder;
  const std::string config = folder / "lamb.ini";
};

TEST_F(OptimizerRuns, TellWhatGroupsAndFreezingMatch) {
  const ProcessResult result = train(2, "told", {"--train.epochs", "1"});
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  const std::string said = result.out + result.err;
  EXPECT_NE(said.find("optimizer.groups: *.bias has 3 tensors, 37 parameters: rate 2x, decay 0\n"),
            std::string::npos)
      << said;
  EXPECT_NE(said.find("optimizer.groups: conv1.* has 1 tensor, 432 parameters: rate 0.5x, decay 0.01, not "
                      "adapted"),
            std::string::npos)
      << said;
  EXPECT_NE(said.find("model.freeze: bn1.weight keeps 1 tensor, 16 parameters, as they are"),
            std::string::npos)
      << said;
}

TEST_F(OptimizerRuns, EndInOneDigestAlsoStoppedAndResumedOnOtherRanks) {
  ASSERT_EQ(train(1, "one", {}).exit_code, 0);
  ASSERT_EQ(train(3, "three", {"--train.bucket_mb", "0.01"}).exit_code, 0);
  ASSERT_EQ(train(2, "stopped", {"--train.epochs", "2", "--schedule.steps", "12"}).exit_code, 0);
  const ProcessResult resumed =
      lockstep(3, {"train", "--resume", "--run.dir", folder / "stopped", "--train.epochs", "4"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.describe();
  EXPECT_EQ(digest(folder / "one"), digest(folder / "three"));
  EXPECT_EQ(digest(folder / "one"), digest(folder / "stopped"));
}

TEST_F(OptimizerRuns, AResumeWithOthersIsRefused) {
  ASSERT_EQ(train(1, "run", {"--train.epochs", "1"}).exit_code, 0);
  const auto resume = [&](const std::string& key, const std::string& value) {
    expect_refusal(lockstep(2, {"train", "--resume", "--run.dir", folder / "run", "--" + key, value}),
                   {key, "--resume may change only"});
  };
  resume("optimizer.name", "lars");
  resume("optimizer.groups", "*.bias: lr=3x");
  resume("model.freeze", "conv1.*");
}

}  // namespace
}  // namespace lockstep::test
