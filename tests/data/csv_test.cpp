#include "data/readers/csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>

#include "data/test_support.h"

namespace lockstep {
namespace {

using test::error_of;
using test::put_file;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DataCsv : public ::testing::Test {
 protected:
  CsvContent load(const std::string& text, const CsvOptions& options = {}) {
    put_file(dir_ / "t.csv", text);
    return load_csv(dir_ / "t.csv", "data.train", options);
  }
  std::string refused(const std::string& text, const CsvOptions& options = {}) {
    return error_of([&] { load(text, options); });
  }
  static CsvOptions with(LabelUse use, const std::string& label = "", const CsvSchema* trained = nullptr) {
    CsvOptions options;
    options.use = use;
    options.label = label;
    options.trained = trained;
    return options;
  }
  test::TempDir dir_;
};

TEST_F(DataCsv, HeaderQuotesMarkAndLineEnds) {
  const CsvContent csv = load(
      "\xef\xbb\xbf"
      "a, \"b \"\"x\"\", y\" ,label\r\n1,\" 2 \",0\r\n-3e2, +.5 ,1\r\n\r\n\n");
  EXPECT_TRUE(csv.schema.header);
  EXPECT_THAT(csv.schema.columns, ElementsAre("a", "b \"x\", y", "label"));
  EXPECT_THAT(csv.schema.label_columns, ElementsAre(2));
  EXPECT_EQ(csv.content.samples, 2);
  EXPECT_THAT(csv.content.floats, ElementsAre(1.0f, 2.0f, -300.0f, 0.5f));
  EXPECT_THAT(csv.content.labels, ElementsAre(0, 1));
  EXPECT_EQ(csv.content.sample_shape, Shape{2});
  EXPECT_THAT(csv.content.lines, ElementsAre(2, 3));
}

TEST_F(DataCsv, AFirstLineOfNumbersIsData) {
  const CsvContent csv = load("1,2,0\n3,4,1");
  EXPECT_FALSE(csv.schema.header);
  EXPECT_EQ(csv.content.samples, 2);
  EXPECT_EQ(load("a,b,c\n3,4,1\r").content.samples, 1);
}

TEST_F(DataCsv, AMixedFirstLineIsRefusedUnlessALabelIsNamed) {
  EXPECT_THAT(refused("?,2,0\n3,4,1\n"),
              AllOf(HasSubstr("line 1 is neither a header nor data"), HasSubstr("'?'")));
  EXPECT_TRUE(load("y,1,2\n1,3,4\n", with(LabelUse::classes, "y")).schema.header);
  // Names that are numbers, a label given by number: the one word among numbers gives it away.
  EXPECT_TRUE(load("y,1,2\n1,3,4\n", with(LabelUse::classes, "0")).schema.header);
  EXPECT_THAT(refused("y,8,9\n1,3,4\n", with(LabelUse::classes, "0")),
              AllOf(HasSubstr("may be a header or a sample"), HasSubstr("'y'"), HasSubstr("data.header")));
}

TEST_F(DataCsv, LabelsByNameByNumberAndSeveral) {
  const std::string text = "y,a,z\n1,2,3\n4,5,6\n";
  EXPECT_THAT(load(text, with(LabelUse::classes, "y")).content.floats, ElementsAre(2, 3, 5, 6));
  EXPECT_THAT(load(text, with(LabelUse::classes, "1")).content.labels, ElementsAre(2, 5));
  EXPECT_THAT(load(text).content.labels, ElementsAre(3, 6));
  const CsvContent both = load(text, with(LabelUse::targets, "z, y"));
  EXPECT_EQ(both.content.target_width, 2);
  EXPECT_THAT(both.content.targets, ElementsAre(3, 1, 6, 4));
  EXPECT_THAT(both.content.floats, ElementsAre(2, 5));

  EXPECT_THAT(refused("species,a\n1,2\n", with(LabelUse::classes, "specis")),
              HasSubstr("did you mean 'species'?"));
  EXPECT_THAT(refused(text, with(LabelUse::classes, "7")), HasSubstr("columns 0 to 2"));
  EXPECT_THAT(refused(text, with(LabelUse::classes, "-1")), HasSubstr("columns 0 to 2"));
  EXPECT_THAT(refused(text, with(LabelUse::classes, "y,z")), HasSubstr("several are for loss.name = mse"));
  EXPECT_THAT(refused(text, with(LabelUse::targets, "y,y")), HasSubstr("twice"));
  EXPECT_THAT(refused(text, with(LabelUse::targets, "y,a,z")), HasSubstr("at least one besides"));
  EXPECT_THAT(refused("y,y,a\n1,2,3\n", with(LabelUse::classes, "y")), HasSubstr("two columns named 'y'"));
}

TEST_F(DataCsv, ErrorsNameLineColumnAndText) {
  EXPECT_THAT(refused("a,b,y\n1,2,0\n1,abc,0\n"),
              AllOf(HasSubstr("t.csv' (data.train) line 3, column 'b'"), HasSubstr("'abc' is not a number")));
  EXPECT_THAT(refused("1,2,0\n1,abc,0\n"), HasSubstr("line 2, column number 1 (from 0): 'abc'"));
  EXPECT_THAT(refused("a,b,y\n1,,0\n"), HasSubstr("line 2, column 'b': the field is empty"));
  EXPECT_THAT(refused("a,b,y\n1,2,\n"), HasSubstr("the label is empty"));
  EXPECT_THAT(refused("a,b,y\n1,2\n"), HasSubstr("line 2 has 2 fields, but the first line has 3"));
  EXPECT_THAT(refused("a,b,y\n1,2,3,4\n"), HasSubstr("line 2 has 4 fields"));
  for (const std::string bad : {"nan", "NaN", "inf", "-Infinity"}) {
    EXPECT_THAT(refused("a,y\n" + bad + ",0\n"), HasSubstr("'" + bad + "' is not a finite number"));
    EXPECT_THAT(refused("a,y\n1," + bad + "\n", with(LabelUse::targets)), HasSubstr("line 2, column 'y'"));
  }
  EXPECT_THAT(refused("a,y\n1e39,0\n"), AllOf(HasSubstr("'1e39'"), HasSubstr("beyond the range of float32")));
  EXPECT_THAT(refused("a,y\n0x10,0\n"), HasSubstr("'0x10' is not a number"));
  EXPECT_THAT(refused("a,y\n1,-1\n"), HasSubstr("negative"));
  EXPECT_THAT(refused("a,y\n1,2.5\n"), AllOf(HasSubstr("'2.5' is not an integer"), HasSubstr("mse")));
  EXPECT_THAT(refused("a,y\n1,3000000000\n"), HasSubstr("too large"));
  EXPECT_THAT(refused("a,y\n1,cat\n1,2\n"), HasSubstr("all integers or all words"));
  EXPECT_THAT(refused("a,y\n1,0\n\n1,0\n"), HasSubstr("line 3 is blank"));
  EXPECT_THAT(refused("a,y\n\"1,0\n1,0\n"),
              HasSubstr("line 2: the quote that opens field number 0 is never closed"));
  EXPECT_THAT(refused("a,y\n\"1\"2,0\n"), HasSubstr("text follows the closing quote"));
  EXPECT_THAT(refused("a,y\n1\"2,0\n"), HasSubstr("a quote stands inside field number 0"));
  EXPECT_THAT(refused("a,y\n"), HasSubstr("a header line and no data"));
  EXPECT_THAT(refused("\n\n"), HasSubstr("no line of data"));
  EXPECT_THAT(refused("a\n1\n"), HasSubstr("at least one besides"));
  EXPECT_THAT(refused("a;y\n1;0\n"), HasSubstr("separated by commas"));
  EXPECT_THAT(refused("\x89PNG\r\n\x1a\n"), HasSubstr("looks like a PNG image"));
}

TEST_F(DataCsv, ALineNumberCountsLinesWithinQuotes) {
  EXPECT_THAT(refused("a,y\n\"1\n\n\",0\nx,0\n", with(LabelUse::classes)), HasSubstr("line 5"));
  EXPECT_THAT(refused("a,y\n1,\"q\nr\"\nx,q\n"), HasSubstr("line 4, column 'a': 'x'"));
}

TEST_F(DataCsv, WordsAreClassesOfTheTrainingFile) {
  const CsvContent train = load("5.1,setosa\n4.0,virginica\n3.0,setosa\n2.0,\"iris, other\"\n");
  EXPECT_FALSE(train.schema.header);
  EXPECT_THAT(train.schema.class_names, ElementsAre("iris, other", "setosa", "virginica"));
  EXPECT_THAT(train.content.labels, ElementsAre(1, 2, 1, 0));
  const CsvContent test = load("1,virginica\n", with(LabelUse::classes, "", &train.schema));
  EXPECT_THAT(test.content.labels, ElementsAre(2));
  EXPECT_THAT(
      refused("1,setosa\n1,virginca\n", with(LabelUse::classes, "", &train.schema)),
      AllOf(HasSubstr("line 2"), HasSubstr("'virginca' is none of the 3 classes"), HasSubstr("'virginica'")));
  EXPECT_THAT(refused("1,2\n", with(LabelUse::classes, "", &train.schema)),
              HasSubstr("none of the 3 classes"));
  const CsvContent integers = load("1,2\n");
  EXPECT_THAT(refused("1,cat\n", with(LabelUse::classes, "", &integers.schema)),
              HasSubstr("'cat' is not an integer"));
}

TEST_F(DataCsv, OtherFilesFollowTheTrainingFile) {
  const CsvSchema trained = load("a,y,b\n1,0,2\n", with(LabelUse::classes, "y")).schema;
  const CsvOptions like = with(LabelUse::classes, "y", &trained);
  EXPECT_THAT(load("a,y,b\n5,1,6\n", like).content.floats, ElementsAre(5, 6));
  EXPECT_THAT(refused("1,0,2\n", like), HasSubstr("has no header line"));
  EXPECT_THAT(load("b,y,a\n1,0,2\n", like).content.floats, ElementsAre(2, 1));
  EXPECT_THAT(refused("a,y\n1,0\n", like), HasSubstr("line 1 has no column 'b'"));

  const CsvOptions inputs = with(LabelUse::none, "y", &trained);
  EXPECT_THAT(load("a,b\n5,6\n", inputs).content.floats, ElementsAre(5, 6));
  EXPECT_THAT(load("a,y,b\n5,anything,6\n", inputs).content.floats, ElementsAre(5, 6));
  EXPECT_TRUE(load("a,b\n5,6\n", inputs).content.labels.empty());
  EXPECT_THAT(load("b,a\n5,6\n", inputs).content.floats, ElementsAre(6, 5));
}

TEST_F(DataCsv, ShapeIsChecked) {
  CsvOptions options;
  options.shape = Shape{1, 2, 2};
  EXPECT_EQ(load("1,2,3,4,0\n", options).content.sample_shape, (Shape{1, 2, 2}));
  EXPECT_THAT(refused("1,2,3,0\n", options),
              AllOf(HasSubstr("1x2x2 has 4 elements"), HasSubstr("3 feature columns")));
}

TEST_F(DataCsv, GzippedFilesReadAlike) {
  EXPECT_EQ(load(test::gzip_bytes("1,2,0\n")).content.samples, 1);
}

TEST_F(DataCsv, MutatedFilesNeverDoMoreThanThrow) {
  std::mt19937 random(7);
  const std::string text = "a,\"b\",label\r\n1.5,\"2\",0\n-3e4,4,1\n5,\"6\",2\n";
  const std::string alphabet = "\",\n\r 0eE+-.x\xff";
  int accepted = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string bytes = text;
    for (int c = 1 + static_cast<int>(random() % 3); c > 0; --c) {
      bytes[random() % bytes.size()] = alphabet[random() % alphabet.size()];
    }
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    const std::string error = refused(bytes, with(i % 2 == 0 ? LabelUse::classes : LabelUse::targets));
    accepted += error.empty() ? 1 : 0;
    EXPECT_THAT(error, ::testing::Not(HasSubstr("not an input error"))) << bytes;
  }
  EXPECT_GT(accepted, 100);
}

}  // namespace
}  // namespace lockstep
