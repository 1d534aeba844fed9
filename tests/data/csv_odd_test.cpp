// Where one value is unlike all others, the message names that one.

#include <gmock/gmock.h>

#include "data/csv_test_support.h"

namespace lockstep {
namespace {

using test::CsvFiles;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class DataCsvOddOne : public CsvFiles {
 protected:
  /// A header and `rows` lines "i.5,label", of which line `line` of the file is `odd` instead.
  static std::string file(int rows, int line, const std::string& odd, const std::string& label = "cat") {
    std::string text = "x,kind\n";
    for (int i = 2; i < rows + 2; ++i)
      text += i == line ? odd + "\n" : std::to_string(i) + ".5," + label + "\n";
    return text;
  }
};

TEST_F(DataCsvOddOne, AWordAmongNumbersIsNamedWithWhatTheOthersAre) {
  EXPECT_THAT(
      refused(file(1000, 700, "seven,cat")),
      AllOf(HasSubstr("line 700, column 'x'"), HasSubstr("'seven'"), HasSubstr("the other 999 fields")));
  EXPECT_THAT(refused(file(9, 5, ",cat")),
              AllOf(HasSubstr("line 5"), HasSubstr("is empty"), HasSubstr("the other 8 fields")));
  EXPECT_THAT(refused("x,color,kind\n1,red,cat\n2,blue,dog\n3,red,cat\n"),
              AllOf(HasSubstr("line 2, column 'color'"), HasSubstr("none of its 3 fields is"),
                    HasSubstr("data.drop = color")));
  EXPECT_THAT(
      refused("x,n,kind\n1,4,cat\n2,?,dog\n3,?,cat\n3,,cat\n"),
      AllOf(HasSubstr("line 3, column 'n'"), HasSubstr("2 of its 4 fields are words and 1 is empty")));
}

TEST_F(DataCsvOddOne, ALabelThatIsNoWordIsNamedAndNotTheFirst) {
  EXPECT_THAT(refused(file(1000, 700, "1.5,7")),
              AllOf(HasSubstr("line 700"), HasSubstr("label '7' is a number"),
                    HasSubstr("999 other labels are words such as 'cat'"), Not(HasSubstr("line 2"))));
  EXPECT_THAT(refused(file(50, 31, "1.5,cat", "3")),
              AllOf(HasSubstr("line 31"), HasSubstr("label 'cat' is not an integer"),
                    HasSubstr("49 other labels are numbers such as '3'")));
  EXPECT_THAT(refused(file(50, 31, "1.5,2.5", "3")),
              AllOf(HasSubstr("line 31"), HasSubstr("'2.5' is not an integer"),
                    HasSubstr("the other 49 labels are")));
  EXPECT_THAT(refused(file(50, 31, "1.5,-3", "3")), AllOf(HasSubstr("line 31"), HasSubstr("negative")));
  EXPECT_THAT(refused(file(50, 31, "1.5,99999999999999999999", "3")),
              AllOf(HasSubstr("line 31"), HasSubstr("too large for a class number")));
  EXPECT_THAT(refused(file(50, 31, "1.5,-99999999999999999999", "3")), HasSubstr("negative"));
  EXPECT_THAT(refused(file(50, 31, "1.5,1e400", "3")), HasSubstr("line 31"));
  EXPECT_THAT(refused("1.5,2\n2.5,cat\n3.5,cat\n"),
              AllOf(HasSubstr("line 1"), HasSubstr("data.header = yes")));
}

TEST_F(DataCsvOddOne, ALineOfAnotherLengthIsNamedBeItTheFirst) {
  EXPECT_THAT(refused(file(90, 57, "1.5")),
              AllOf(HasSubstr("line 57 has 1 field,"), HasSubstr("other 90 lines have 2")));
  // The header lacks a name: R.
  EXPECT_THAT(
      refused("x,y,kind\n1,1.5,2.5,cat\n2,1.5,2.5,dog\n3,1.5,2.5,cat\n"),
      AllOf(HasSubstr("line 1 has 3 fields"), HasSubstr("other 3 lines have 4"), HasSubstr("write.table")));
  EXPECT_THAT(refused("1,2,3,0\n1,2,0\n4,5,1\n6,7,1\n"),
              AllOf(HasSubstr("line 1 has 4 fields"), HasSubstr("other 3 lines have 3")));
  EXPECT_THAT(refused("x,kind\n1,cat\n2\n3\n4,dog\n"),
              AllOf(HasSubstr("line 3 has 1 field,"), HasSubstr("3 of 5 lines have 2")));
}

TEST_F(DataCsvOddOne, ACommentInFrontIsNoOtherSeparator) {
  for (const char* label : {"", "kind"})
    EXPECT_THAT(refused("# made by hand\nx,y,kind\n1,2,cat\n3,4,dog\n", with(LabelUse::classes, label)),
                AllOf(HasSubstr("line 1 has 1 field, but the other 3 lines have 3"), HasSubstr("comment"),
                      Not(HasSubstr("data.delimiter"))));
  EXPECT_THAT(refused("# one, two\nx,y,kind\n1,2,cat\n3,4,dog\n"),
              AllOf(HasSubstr("line 1 has 2 fields"), HasSubstr("comment"), Not(HasSubstr("write.table"))));
  // Commas of decimals are no better separators.
  EXPECT_THAT(refused("a;b;y\n1,5;2;0\n2,5;2;1\n"), HasSubstr("separated by semicolons: set data.delimiter"));
}

TEST_F(DataCsvOddOne, WhatIsAdvisedCanBeDone) {
  const std::string words = "x,y,kind\n1,2,cat\n3,4,dog\n5,6,cat\n";
  EXPECT_THAT(refused(words, with(LabelUse::targets)),
              AllOf(HasSubstr("'cat' is not a number"), HasSubstr("data.label"),
                    HasSubstr("loss.name = cross_entropy"), Not(HasSubstr("data.drop"))));
  for (const LabelUse use : {LabelUse::targets, LabelUse::classes})
    EXPECT_THAT(refused("x,y,\n1,2,\n3,4,\n5,6,\n", with(use)),
                AllOf(HasSubstr("empty"), HasSubstr("remove the separator at the end of every line"),
                      Not(HasSubstr("data.drop"))));
  EXPECT_THAT(refused("x,kind\n1,cat,\n2,dog,\n3,cat,\n"),
              AllOf(HasSubstr("end with a separator"), Not(HasSubstr("write.table"))));
  const CsvSchema trained = load(words).schema;
  const CsvOptions inputs = with(LabelUse::none, "", &trained);
  EXPECT_THAT(refused("x,y\n1,a\n2,b\n3,c\n", inputs),
              AllOf(HasSubstr("'a' is not a number"), Not(HasSubstr("data.drop"))));
  EXPECT_THAT(refused("x;y\n1;2\n", inputs),
              AllOf(HasSubstr("semicolons: set data.delimiter"), Not(HasSubstr("did you mean"))));
  const CsvSchema bare = load("1,2,cat\n3,4,dog\n5,6,cat\n").schema;
  EXPECT_THAT(refused("1;2\n", with(LabelUse::none, "", &bare)),
              AllOf(HasSubstr("has 1 field,"), HasSubstr("semicolons: set data.delimiter")));
}

TEST_F(DataCsvOddOne, NumbersBeyondFloat64AreNumbersAllTheSame) {
  EXPECT_THAT(load("x,kind\n1e-400,cat\n-1e-50,dog\n1e-40,cat\n").content.floats,
              ElementsAre(0.0f, -0.0f, 1e-40f));
  EXPECT_THAT(refused("x,kind\n1,cat\n1e400,dog\n-2,cat\n"),
              AllOf(HasSubstr("line 3, column 'x'"), HasSubstr("'1e400' is too large")));
  EXPECT_THAT(refused("x,kind\n1,cat\n-1e39,dog\n"), HasSubstr("'-1e39' is too large"));
  EXPECT_THAT(load("x,kind\n3.4028235e38,cat\n1,dog\n").content.floats[0], 3.4028235e38f);
  // Neither makes a header of a first line.
  EXPECT_EQ(load("1e-400,2,0\n3,4,1\n").content.samples, 2);
  EXPECT_THAT(refused("1e400,2,0\n3,4,1\n"), HasSubstr("'1e400' is too large"));
  EXPECT_THAT(load("x,y\n1,1e-400\n2,1\n", with(LabelUse::targets)).content.targets, ElementsAre(0.0f, 1.0f));
}

TEST_F(DataCsvOddOne, WholeFloatsAreLabels) {
  const CsvContent csv = load("x,y\n1,1.0\n2,0\n3,2.\n4,1e0\n5,-0.0\n");
  EXPECT_THAT(csv.content.labels, ElementsAre(1, 0, 2, 1, 0));
  EXPECT_TRUE(csv.schema.class_names.empty());
  EXPECT_THAT(load("x,y\n1,2.0\n", with(LabelUse::classes, "", &csv.schema)).content.labels, ElementsAre(2));
  EXPECT_THAT(refused("x,y\n1,0.5\n2,1.5\n3,2.5\n"),
              AllOf(HasSubstr("'0.5' is not an integer"), HasSubstr("mse")));
}

}  // namespace
}  // namespace lockstep
