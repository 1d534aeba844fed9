#include "trainer/data/open.h"

#include <cstdlib>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>

#include "data/test_support.h"
#include "support/process.h"

namespace lockstep {
namespace {

using test::counting_bytes;
using test::error_of;
using test::idx_bytes;
using test::put_file;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DataOpen : public ::testing::Test {
 protected:
  void put_idx(const std::string& name, std::uint32_t n, const std::string& labels, std::uint32_t side = 2) {
    put_file(dir_ / (name + "-images-idx3-ubyte"),
             idx_bytes(0x08, {n, side, side}, counting_bytes(n * side * side)));
    put_file(dir_ / (name + "-labels-idx1-ubyte"), idx_bytes(0x08, {n}, labels));
  }
  Config idx_config() {
    Config config;
    config.data.train = dir_ / "train-images-idx3-ubyte";
    return config;
  }
  Config csv_config(const std::string& train, const std::string& test = "") {
    put_file(dir_ / "train.csv", train);
    Config config;
    config.data.format = "csv";
    config.data.train = dir_ / "train.csv";
    if (!test.empty()) {
      put_file(dir_ / "test.csv", test);
      config.data.test = dir_ / "test.csv";
    }
    return config;
  }
  static std::string refused(const Config& config, const DataNeeds& needs = {}) {
    return error_of([&] { open_datasets(config, needs); });
  }
  test::TempDir dir_;
};

TEST_F(DataOpen, IdxWithTestFileAndValidationFraction) {
  put_idx("train", 10, std::string("\0\1\2\0\1\2\0\1\2\0", 10));
  put_idx("t10k", 4, std::string("\2\1\0\2", 4));
  Config config = idx_config();
  config.data.test = dir_ / "t10k-images-idx3-ubyte";
  config.data.validation_fraction = 0.3;
  const DataSets sets = open_datasets(config);
  EXPECT_EQ(sets.train->size(), 7);
  EXPECT_EQ(sets.validation->size(), 3);
  EXPECT_EQ(sets.test->size(), 4);
  EXPECT_EQ(FieldColumn(*sets.test, label_field).integer(3), 2);
  EXPECT_EQ(sets.info.classes, 3);
  EXPECT_EQ(sets.info.sample_shape, (Shape{1, 2, 2}));
  EXPECT_EQ(sets.info.normalizer, Normalizer::fit("auto", *sets.train));  // of the training split alone
  const Config whole = [&] {
    Config c = config;
    c.data.validation_fraction = 0;
    return c;
  }();
  EXPECT_FALSE(sets.info.normalizer == open_datasets(whole).info.normalizer);

  // A resume holds the training file against the stored one: its size decides what position and splits mean.
  put_idx("train", 9, std::string("\0\1\2\0\1\2\0\1\2", 9));
  const DataInfo before = sets.info;
  EXPECT_THAT(error_of([&] { open_datasets(config, {}, &before); }),
              AllOf(HasSubstr("9 samples"), HasSubstr("began with 10 samples")));

  // Evaluation with what training stored reads no training file and takes the same normalisation.
  const DataInfo stored = DataInfo::from_json(sets.info.to_json(), "data.json");
  EXPECT_EQ(stored, sets.info);
  std::filesystem::remove(config.data.train);
  config.data.validation_fraction = 0;
  const DataSets again = open_datasets(config, {false, false, true}, &stored);
  EXPECT_EQ(again.train, nullptr);
  EXPECT_EQ(again.info, stored);
  EXPECT_EQ(again.test->size(), 4);
}

TEST_F(DataOpen, LabelsOutsideTheClassesAreNamed) {
  put_idx("train", 3, std::string("\0\1\2", 3));
  put_idx("t10k", 3, std::string("\0\1\3", 3));
  Config config = idx_config();
  config.data.test = dir_ / "t10k-images-idx3-ubyte";
  EXPECT_THAT(refused(config), AllOf(HasSubstr("t10k-labels-idx1-ubyte' sample 2"), HasSubstr("label 3"),
                                     HasSubstr("3 classes 0 to 2")));
  config.data.classes = 4;
  EXPECT_EQ(open_datasets(config).info.classes, 4);
  config.data.classes = 2;
  EXPECT_THAT(refused(config),
              AllOf(HasSubstr("train-labels"), HasSubstr("label 2 is outside the 2 classes")));

  const Config csv = csv_config("a,y\n1,0\n2,1\n", "a,y\n1,0\n\"2\",5\n");
  EXPECT_THAT(refused(csv),
              AllOf(HasSubstr("test.csv' line 3"), HasSubstr("label 5 is outside the 2 classes")));
}

TEST_F(DataOpen, OneClassIsAllowed) {
  put_idx("train", 3, std::string(3, '\0'));
  EXPECT_EQ(open_datasets(idx_config()).info.classes, 1);
}

TEST_F(DataOpen, AStrayLabelDoesNotMakeAHugeModel) {
  EXPECT_THAT(refused(csv_config("a,y\n1,0\n2,70000\n")),
              AllOf(HasSubstr("train.csv' line 3: label 70000"), HasSubstr("the others reach 0")));
}

TEST_F(DataOpen, OtherFilesHaveTheShapeOfTheTrainingFile) {
  put_idx("train", 3, std::string("\0\1\2", 3));
  put_idx("t10k", 3, std::string("\0\1\2", 3), 3);
  Config config = idx_config();
  config.data.test = dir_ / "t10k-images-idx3-ubyte";
  EXPECT_THAT(refused(config), AllOf(HasSubstr("t10k-images"), HasSubstr("1x3x3"), HasSubstr("1x2x2")));
}

TEST_F(DataOpen, CsvWordsAndRegression) {
  Config config = csv_config("a,kind\n1,dog\n2,cat\n3,dog\n", "a,kind\n1,cat\n");
  const DataSets sets = open_datasets(config);
  EXPECT_THAT(sets.info.class_names, ElementsAre("cat", "dog"));
  EXPECT_EQ(sets.info.classes, 2);
  EXPECT_EQ(sets.info.class_name(1), "dog");
  EXPECT_EQ(FieldColumn(*sets.train, label_field).integer(0), 1);
  EXPECT_EQ(FieldColumn(*sets.test, label_field).integer(0), 0);
  EXPECT_EQ(DataInfo::from_json(sets.info.to_json(), "x"), sets.info);
  config.data.classes = 3;
  EXPECT_THAT(refused(config), HasSubstr("2 different labels"));

  Config regression = csv_config("a,b,y,z\n1,2,0.5,-1\n3,4,1e3,7\n");
  regression.loss.name = "mse";
  regression.data.label = "y,z";
  const DataSets numbers = open_datasets(regression);
  EXPECT_EQ(numbers.info.target_width, 2);
  EXPECT_EQ(numbers.info.classes, 0);
  std::vector<float> target(2);
  FieldColumn(*numbers.train, target_field).read(1, target);
  EXPECT_THAT(target, ElementsAre(1000, 7));  // as they stand: targets are never normalised
}

TEST_F(DataOpen, InputsForPrediction) {
  put_idx("train", 4, std::string("\0\1\0\1", 4));
  const Config config = idx_config();
  const DataInfo info = open_datasets(config).info;
  put_file(dir_ / "new", idx_bytes(0x08, {2, 2, 2}, counting_bytes(8)));
  const auto data = open_inputs(config, info, dir_ / "new").samples;
  EXPECT_EQ(data->size(), 2);
  EXPECT_FALSE(find_field(data->fields(), label_field).has_value());
  put_file(dir_ / "new", idx_bytes(0x08, {2, 2, 3}, counting_bytes(12)));
  EXPECT_THAT(error_of([&] { open_inputs(config, info, dir_ / "new"); }), HasSubstr("1x2x3"));

  const Config csv = csv_config("a,kind,b\n1,dog,2\n2,cat,3\n");
  Config labelled = csv;
  labelled.data.label = "kind";
  const DataInfo csv_info = open_datasets(labelled).info;
  put_file(dir_ / "new.csv", "a,b\n7,8\n");
  const auto numbers = open_inputs(labelled, csv_info, dir_ / "new.csv").samples;
  EXPECT_EQ(FieldColumn(*numbers, input_field).floats(0)[1], 8.0f);
}

TEST_F(DataOpen, SyntheticSplitsAndKeys) {
  Config config;
  config.data.format = "synthetic";
  config.data.samples = 100;
  config.data.shape = "3x4x4";
  config.data.test_fraction = 0.2;
  const DataSets sets = open_datasets(config);
  EXPECT_EQ(sets.train->size(), 80);
  EXPECT_EQ(sets.test->size(), 20);
  EXPECT_EQ(sets.info.classes, 10);
  EXPECT_EQ(sets.info.normalizer.kind(), Normalizer::Kind::none);
  config.loss.name = "mse";
  EXPECT_EQ(open_datasets(config).info.target_width, 1);
  config.data.shape = "";
  EXPECT_THAT(refused(config), HasSubstr("data.shape"));
}

TEST_F(DataOpen, KeysThatDoNotFitAreRefused) {
  put_idx("train", 3, std::string("\0\1\2", 3));
  const auto with = [&](auto change) {
    Config config = idx_config();
    change(config);
    return refused(config);
  };
  EXPECT_THAT(with([](Config& c) { c.data.train = ""; }), HasSubstr("data.train is not given"));
  EXPECT_THAT(with([](Config& c) { c.data.train += "x"; }),
              AllOf(HasSubstr("ubytex' (data.train)"), HasSubstr("No such file")));
  EXPECT_THAT(with([](Config& c) { c.data.label = "y"; }),
              HasSubstr("data.label is given, but data.format = idx"));
  EXPECT_THAT(with([](Config& c) { c.data.samples = 5; }), HasSubstr("data.samples is given"));
  EXPECT_THAT(with([](Config& c) { c.data.test_labels = "x"; }),
              HasSubstr("data.test_labels is given, but data.test is not"));
  EXPECT_THAT(with([](Config& c) {
                c.data.test = c.data.train;
                c.data.test_fraction = 0.5;
              }),
              HasSubstr("data.test_fraction is given, but so is data.test"));
  EXPECT_THAT(with([](Config& c) {
                c.loss.name = "mse";
                c.data.classes = 2;
              }),
              HasSubstr("loss.name = mse has no classes"));
  EXPECT_THAT(with([](Config& c) { c.data.shape = "2x2"; }), HasSubstr("data.shape = 2x2 has 2 extents"));
  for (const char* bad : {"1x", "x", "0", "-3", "axb", "1x28x28x", "9999999999999x9999999999999x9"}) {
    EXPECT_THAT(with([&](Config& c) { c.data.shape = bad; }), HasSubstr("is no shape")) << bad;
  }
  EXPECT_THAT(with([](Config& c) { c.data.shape = "5"; }), HasSubstr("has 5 elements"));
  EXPECT_THAT(with([](Config& c) { c.data.normalize = "x"; }), HasSubstr("data.normalize"));
  EXPECT_THAT(with([](Config& c) { c.data.validation_fraction = 0.1; }), HasSubstr("is not one sample"));
  EXPECT_THAT(with([](Config& c) {
                c.data.validation_fraction = 0.5;
                c.data.test_fraction = 0.7;
              }),
              HasSubstr("leave nothing of 3 samples"));
}

TEST_F(DataOpen, StoredDescriptionsAreReadStrictly) {
  put_idx("train", 3, std::string("\0\1\2", 3));
  const std::string good = open_datasets(idx_config()).info.to_json();
  for (const std::string& text :
       {std::string(), good.substr(0, good.size() / 2), std::string("{}"),
        std::string(good).replace(good.find("\"classes\": 3"), 12, "\"classes\": 0")}) {
    EXPECT_THAT(error_of([&] { DataInfo::from_json(text, "runs/a/data.json"); }),
                HasSubstr("runs/a/data.json"));
  }
  // Names that a run could not store are refused when they are read, before a run directory is touched.
  const Config header = csv_config("a\xe9,kind\n1,0\n");
  EXPECT_THAT(error_of([&] { open_datasets(header); }), AllOf(HasSubstr("line 1"), HasSubstr("UTF-8")));
  const Config word = csv_config("a,kind\n1,tea\n2,caf\xe9\n");
  EXPECT_THAT(error_of([&] { open_datasets(word); }), AllOf(HasSubstr("line 3"), HasSubstr("UTF-8")));
}

// The real files of Debian's dataset-fashion-mnist.
TEST(DataFashionMnist, TheRealFiles) {
  const char* named = std::getenv("LOCKSTEP_FASHION_MNIST");
  const std::string folder = named != nullptr ? named : "/usr/share/datasets/fashion-mnist";
  Config config;
  config.data.train = folder + "/train-images-idx3-ubyte.gz";
  config.data.test = folder + "/t10k-images-idx3-ubyte.gz";
  if (!std::filesystem::exists(config.data.train)) {
    LOCKSTEP_SKIP_WITHOUT(
        "data",
        config.data.train + " does not exist: install dataset-fashion-mnist or set LOCKSTEP_FASHION_MNIST");
  }
  const DataSets sets = open_datasets(config);
  ASSERT_EQ(sets.train->size(), 60000);
  ASSERT_EQ(sets.test->size(), 10000);
  EXPECT_EQ(sets.info.sample_shape, (Shape{1, 28, 28}));
  EXPECT_EQ(sets.info.classes, 10);
  std::vector<int> counts(10, 0);
  for (std::int64_t i = 0; i < 60000; ++i)
    ++counts[static_cast<std::size_t>(FieldColumn(*sets.train, label_field).integer(i))];
  EXPECT_THAT(counts, ::testing::Each(6000));
  // The first ten labels, and the mean and deviation of the pixels as they are commonly quoted.
  std::vector<int> first;
  for (std::int64_t i = 0; i < 10; ++i) first.push_back(FieldColumn(*sets.train, label_field).integer(i));
  EXPECT_THAT(first, ElementsAre(9, 0, 0, 3, 0, 2, 7, 2, 5, 5));
  EXPECT_NEAR(sets.info.normalizer.mean()[0], 0.2860, 5e-5);
  EXPECT_NEAR(sets.info.normalizer.deviation()[0], 0.3530, 5e-5);
}

}  // namespace
}  // namespace lockstep
