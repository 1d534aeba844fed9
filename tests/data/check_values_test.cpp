#include "data/readers/check_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/memory_dataset.h"
#include "data/test_support.h"

namespace lockstep {
namespace {

using test::error_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

MemoryDataset rows(std::vector<float> values, std::int64_t width = 2, std::vector<float> targets = {}) {
  MemoryContent content;
  content.file = "x.csv";
  content.sample_shape = Shape{width};
  content.samples = static_cast<std::int64_t>(values.size()) / width;
  content.floats = std::move(values);
  content.target_width = targets.empty() ? 0 : 1;
  content.targets = std::move(targets);
  for (std::int64_t i = 0; i < content.samples; ++i) content.lines.push_back(i + 2);
  return MemoryDataset(std::move(content));
}

DataInfo info_of(const Dataset& train) {
  DataInfo info;
  info.sample_shape = train.sample_shape();
  info.csv = {true, {"a", "kind", "b\x1b"}, {1}, {}, {}};
  info.normalizer = Normalizer::fit("standard", train);
  return info;
}

TEST(CheckValues, AnInputBeyondFloat32IsRefusedByFileRowAndColumn) {
  const MemoryDataset train = rows({0, 1, 2e-37f, 2});
  const DataInfo info = info_of(train);
  refuse_beyond_float32(train, info);
  EXPECT_THAT(error_of([&] {
                refuse_beyond_float32(rows({1e-37f, 1, 0, 5, 100, 1}), info);
              }),
              AllOf(HasSubstr("'x.csv' line 4: column 'a' is 100"), HasSubstr("float32"),
                    HasSubstr("data.normalize = none")));
  EXPECT_THAT(error_of([&] { refuse_beyond_float32(rows({-3e38f, 1}), info); }), HasSubstr("line 2"));
  EXPECT_THAT(error_of([&] { refuse_beyond_float32(rows({100, 1}), info); }), HasSubstr("hardly varies"));
  refuse_beyond_float32(rows({0.5f, 1}), info);
  EXPECT_THAT(error_of([&] {
                refuse_beyond_float32(rows({0, 3e38f}), info);
              }),
              AllOf(HasSubstr("far beyond those of the training data"), Not(HasSubstr("hardly varies"))));
  EXPECT_EQ(element_text(info, 1), "column 'b\\x1b'");
}

TEST(CheckValues, AnInputFarFromAllThatWasTrainedOnIsWarnedOf) {
  const MemoryDataset train = rows({0, 1, 1e-7f, 2});
  const DataInfo info = info_of(train);
  EXPECT_THAT(warnings_of_inputs(train, info), IsEmpty());
  EXPECT_THAT(warnings_of_inputs(rows({0, 3, 1, 1}), info),
              ElementsAre(AllOf(HasSubstr("'x.csv' line 3: column 'a' is 1, 2e+07 deviations"))));
}

TEST(CheckValues, ColumnsThatDifferByRoundingAloneAreNamed) {
  const MemoryDataset train = rows({0.1f, 1, 0.10000001f, 2});
  const DataInfo info = info_of(train);
  EXPECT_THAT(warnings_of_training(train, info),
              ElementsAre(AllOf(HasSubstr("column 'a' (0.1 to 0.10000001)"), HasSubstr("constant"))));
  EXPECT_THAT(warnings_of_training(rows({1, 1, 1, 2}), info), IsEmpty())
      << "a constant column is no surprise";
  EXPECT_THAT(warnings_of_training(rows({1, 1, 3, 2}), info), IsEmpty());
}

TEST(CheckValues, AScaledTargetBeyondFloat32IsRefused) {
  const MemoryDataset train = rows({1, 2}, 1, {0, 2e-37f});
  DataInfo info;
  info.sample_shape = Shape{1};
  info.target_width = 1;
  info.normalizer.fit_targets(train);
  refuse_beyond_float32(train, info);
  EXPECT_THAT(error_of([&] {
                refuse_beyond_float32(rows({1, 2}, 1, {0, 50}), info);
              }),
              AllOf(HasSubstr("line 3: target number 0 is 50"), HasSubstr("data.scale_targets = none")));
}

TEST(CheckValues, BytesAndDataThatAreNotNormalisedPass) {
  MemoryContent content;
  content.file = "b";
  content.sample_shape = Shape{1, 1, 2};
  content.samples = 2;
  content.bytes = {7, 7, 7, 8};
  const MemoryDataset images(std::move(content));
  DataInfo info;
  info.sample_shape = images.sample_shape();
  info.normalizer = Normalizer::fit("standard", images);
  refuse_beyond_float32(images, info);
  EXPECT_THAT(warnings_of_training(images, info), IsEmpty());
  EXPECT_THAT(warnings_of_inputs(images, info), IsEmpty());
  info.normalizer = Normalizer();
  refuse_beyond_float32(images, info);
}

}  // namespace
}  // namespace lockstep
