// Labels that a model with fixed outputs has none for: the refusal names the odd one. And what a training
// says of its data before the first step.

#include <functional>

#include "cli/commands/results_support.h"

namespace lockstep::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class OddLabels : public Results {
 protected:
  /// 72 samples of two features, labels by `label`.
  void write_labels(const std::function<std::string(int)>& label) {
    std::string text = "x,y,kind\n";
    for (int i = 0; i < 72; ++i)
      text += std::to_string(i % 3) + ".5," + std::to_string(i * 7 % 11) + "," + label(i) + "\n";
    write_file_bytes(csv, text);
  }
  /// The refusal of a model of three outputs, which comes after what was taken as what.
  void refused(const std::vector<std::string>& fragments) {
    for (const int ranks : {0, 3}) {
      const ProcessResult result =
          train({{"model.layers", "dense:8 relu dense:3"}, {"train.epochs", "1"}}, ranks);
      expect_refusal(result, fragments);
      const std::size_t taken = result.err.find("72 samples of 2 features");
      EXPECT_LT(taken, result.err.find("lockstep: error")) << result.err;
    }
    EXPECT_FALSE(std::filesystem::exists(run));
  }
};

TEST_F(OddLabels, ALabelThatIsFarTooLargeIsNamedWithItsLine) {
  write_labels([](int i) { return i == 70 ? std::string("60000") : std::to_string(i % 3); });
  refused({"the model gives 3 outputs", "60001", "1 sample has a label above 2", "line 72 has label 60000",
           "the others are 0 to 2"});
}

TEST_F(OddLabels, LabelsThatCountFromOneAreToldSo) {
  write_labels([](int i) { return std::to_string(1 + i % 3); });
  refused({"the model gives 3 outputs", "the labels are 1 to 3", "numbered from 0"});
}

TEST_F(OddLabels, AMisspeltWordIsNamedWithItsLine) {
  write_labels([](int i) -> std::string {
    return i == 40 ? "Cat" : i % 3 == 0 ? "cat" : i % 3 == 1 ? "dog" : "emu";
  });
  refused({"4 different words", "the rarest is 'Cat' with 1 sample", "line 42", "'cat', 'dog', 'emu'"});
}

TEST_F(OddLabels, AByteThatIsNoLabelIsNamedInAFileOfBytes) {
  std::string labels = idx_labels(48);
  labels[8 + 17] = static_cast<char>(200);
  write_file_bytes(folder / "images", idx_images(48));
  write_file_bytes(folder / "labels", labels);
  expect_refusal(lockstep(2,
                          {"train", "--run.dir", run, "--data.format", "idx", "--data.train",
                           folder / "images", "--data.train_labels", folder / "labels", "--model.layers",
                           "flatten dense:3", "--train.global_batch", "12", "--train.epochs", "1"},
                          in_time()),
                 {"the model gives 3 outputs", "sample 17", "label 200", "the others are 0 to 2"});
}

TEST_F(OddLabels, AModelThatIsWrongForSoundLabelsIsToldNothingOfThem) {
  write_labels([](int i) { return std::to_string(i % 3); });
  const ProcessResult result = train({{"model.layers", "dense:8 relu dense:4"}, {"train.epochs", "1"}});
  expect_refusal(result, {"the model gives 4 outputs", "the data needs 3"});
  EXPECT_THAT(error_text(result), Not(HasSubstr("label")));
}

TEST_F(OddLabels, ADryRunWarnsOfTheDataAsTheRunDoes) {
  write_labels([](int i) { return std::to_string(i % 3); });
  write_file_bytes(folder / "far.csv", "x,y,kind\n1,1e9,0\n2,3,1\n");
  const Flags flags{{"model.layers", "dense:3"},
                    {"data.limit", "1000"},
                    {"data.test", folder / "far.csv"},
                    {"train.epochs", "1"}};
  std::vector<std::string> args =
      with_flags({"train", "--dry-run"}, {{"run.dir", run}, {"data.format", "csv"}, {"data.train", csv}});
  const ProcessResult dry = lockstep(2, with_flags(args, flags), in_time());
  EXPECT_EQ(dry.exit_code, 0) << dry.describe();
  const ProcessResult real = train(flags);
  EXPECT_EQ(real.exit_code, 0) << real.describe();
  for (const ProcessResult& result : {dry, real})
    EXPECT_THAT(result.err, AllOf(HasSubstr("far.csv' line 2"), HasSubstr("deviations"),
                                  HasSubstr("data.limit = 1000 has no effect: there are 72 samples")));
}

}  // namespace
}  // namespace lockstep::test
