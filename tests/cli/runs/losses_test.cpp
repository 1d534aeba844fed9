// The options of losses from the outside.

#include <gmock/gmock.h>
#include <set>

#include "cli/cli_data.h"
#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

class Losses : public testing::Test {
 protected:
  Losses() { write_file_bytes(config, small_config()); }
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more) {
    std::vector<std::string> args = {"train",      "--config",       config, "--run.dir",
                                     folder / dir, "--train.epochs", "2"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  TempDir folder;
  const std::string config = folder / "small.ini";
};

TEST_F(Losses, SmoothingAndClassWeightsEndInOneDigestAtAnyPlacement) {
  std::set<std::string> digests;
  for (const int ranks : {1, 2, 3}) {
    const std::string dir = "r" + std::to_string(ranks);
    const ProcessResult result =
        lockstep(ranks, train(dir, {"--loss.class_weights", "1,0.5,2,0,1", "--loss.label_smoothing", "0.1",
                                    "--device.threads", std::to_string(1 + ranks % 2)}));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    digests.insert(digest(folder / dir, true));
  }
  EXPECT_EQ(digests.size(), 1u);
  const ProcessResult plain = lockstep(1, train("plain", {}));
  ASSERT_EQ(plain.exit_code, 0) << plain.describe();
  digests.insert(digest(folder / "plain", true));
  EXPECT_EQ(digests.size(), 2u);
}

TEST_F(Losses, ABatchThatWeighsNothingChangesNothingAndIsCounted) {
  std::set<std::string> digests;
  for (const int ranks : {1, 2}) {
    const std::string dir = "w" + std::to_string(ranks);
    const ProcessResult result =
        lockstep(ranks, train(dir, {"--loss.class_weights", "0,0,0,0,1", "--train.global_batch", "2",
                                    "--train.slices", "2"}));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_THAT(result.err, testing::HasSubstr("no sample of its batch weighs anything"));
    digests.insert(digest(folder / dir, true));
  }
  EXPECT_EQ(digests.size(), 1u);
}

TEST_F(Losses, OptionsThatCannotBeAreRefused) {
  const auto refused = [&](const std::vector<std::string>& more, const std::string& part) {
    expect_refusal(lockstep(0, train("no", more)), {part});
  };
  refused({"--loss.class_weights", "1,2"}, "there are 2 class weights, but 5 classes");
  refused({"--loss.class_weights", "1,x,1,1,1"}, "'x' is not a number of at least 0");
  refused({"--loss.class_weights", "1,-1,1,1,1"}, "'-1' is not a number of at least 0");
  refused({"--loss.class_weights", "0,0,0,0,0"}, "no sample weighs anything");
  refused({"--loss.label_smoothing", "1"}, "loss.label_smoothing");
  refused({"--loss.delta", "2"}, "loss.name = cross_entropy takes none");
  refused({"--loss.name", "hinge", "--loss.class_weights", "1,1,1,1,1"}, "loss.name = hinge takes none");
}

}  // namespace
}  // namespace lockstep::test
