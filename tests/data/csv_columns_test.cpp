// What is a header, which columns are read, and which look as if they should not be.

#include <algorithm>
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "data/csv_test_support.h"

namespace lockstep {
namespace {

using test::CsvFiles;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class DataCsvHeader : public CsvFiles {
 protected:
  void doubted(const std::string& text, const CsvOptions& options = {}) {
    EXPECT_THAT(refused(text, options), AllOf(HasSubstr("line 1"), HasSubstr("data.header"))) << text;
  }
  std::int64_t samples(const std::string& text, const CsvOptions& options = {}) {
    return load(text, options).content.samples;
  }
};

TEST_F(DataCsvHeader, OfNumbersAsPandasWritesItIsNoSample) {
  const CsvContent csv = load("0,1,kind\n" + words(9));
  EXPECT_TRUE(csv.schema.header);
  EXPECT_EQ(csv.content.samples, 9);
  EXPECT_THAT(csv.schema.columns, ElementsAre("0", "1", "kind"));
  EXPECT_THAT(csv.schema.class_names, ElementsAre("cat", "dog", "emu"));
  EXPECT_EQ(samples("0,1,2\n" + words(9)), 9);
  EXPECT_EQ(samples("0,1,kind\n1.5,2.5,0\n2.5,1.5,1\n0.5,0.5,1\n"), 3);
  // Integers below a word that no line has again.
  EXPECT_EQ(samples("0,1,kind\n5,6,cat\n7,8,dog\n9,9,cat\n9,7,dog\n"), 4);
  // Numbers throughout: fractions show that the first line is another kind of thing.
  EXPECT_EQ(samples("0,1,2\n1.5,2.5,0\n2.5,1.5,1\n0.5,0.5,1\n"), 3);
  EXPECT_EQ(samples("0,1,2\n1.5,2.5,0.5\n2.5,1.5,1.5\n", with(LabelUse::targets)), 2);
}

TEST_F(DataCsvHeader, OfNumbersThatMayBeASampleIsRefusedAndSaidByAKey) {
  const std::string integers = "0,1,2\n3,4,0\n5,6,1\n7,8,2\n";
  doubted(integers);
  doubted(integers, with(LabelUse::targets));
  EXPECT_EQ(samples(integers, with_header("yes")), 3);
  EXPECT_EQ(samples(integers, with_header("no")), 4);
  doubted("0,1\n3.5,1\n5.5,0\n7.5,1\n");
  // Any numbers, below which other words stand.
  doubted("400,405,kind\n" + words(9));
  doubted("0,kind\n1.5,cat\n2.5,dog\n1,cat\n7.5,dog\n");
  doubted("400,401,402,403\n0.5,0.25,0.5,1\n0.5,0.75,0.5,0\n", with(LabelUse::targets));
  EXPECT_EQ(samples("400,405,kind\n" + words(9), with_header("yes")), 9);
  EXPECT_EQ(samples("400,405,kind\n" + words(9), with_header("no")), 10);
}

TEST_F(DataCsvHeader, OfSamplesThatCountIsDataWhereTheLabelShowsIt) {
  EXPECT_EQ(samples("0,1,cat\n" + words(9)), 10);  // a class that others have
  EXPECT_EQ(samples("0,1,1\n1,0,1\n0,0,0\n1,1,0\n"), 4);
  EXPECT_EQ(samples("1,2,3\n4,5,6\n7,8,9\n"), 3);
  EXPECT_EQ(samples("5.1,cat\n4.2,dog\n"), 2);  // every class once: nothing is unlike
}

TEST_F(DataCsvHeader, OfFloatsThatCountTheColumnsIsNoSample) {
  doubted("0.0,1.0,2.0\n1.5,2.5,0\n2.5,1.5,1\n0.5,0.5,1\n");
  doubted("0.0,1.0,2.0\n1.5,2.5,0.5\n2.5,1.5,1.5\n", with(LabelUse::targets));
  EXPECT_EQ(samples("0.0,1.0,2.0\n" + words(9)), 9);
  // Lines of whole numbers, written with a point.
  EXPECT_EQ(samples("0.0,1.0,2.0\n4.0,3.0,1.0\n0.0,7.0,0.0\n"), 3);
  EXPECT_EQ(samples("1.0,2.0,3.0\n4.5,3.5,1.0\n"), 2);
  EXPECT_EQ(samples("0.0,1.0\n4.5,1\n"), 2);
  EXPECT_EQ(samples("0.0,1.0,2.0\n1.5,2.5,0\n", with_header("no")), 2);
}

TEST_F(DataCsvHeader, WithAnIndexWithoutANameIsOne) {
  const std::string text = ",0,1,kind\n0,1.5,2.5,cat\n1,2.5,1.5,dog\n2,0.5,0.5,cat\n";
  EXPECT_THAT(refused(text), HasSubstr("data.drop = Unnamed: 0"));  // 0 is the name of another one
  const CsvContent csv = load(text, without("Unnamed: 0"));
  EXPECT_TRUE(csv.schema.header);
  EXPECT_EQ(csv.content.samples, 3);
  EXPECT_THAT(csv.content.floats, ElementsAre(1.5f, 2.5f, 2.5f, 1.5f, 0.5f, 0.5f));
  EXPECT_THAT(refused(",1.5,2.5,cat\n1,2.5,1.5,dog\n"), HasSubstr("neither a header nor data"));
}

TEST_F(DataCsvHeader, KeyThatContradictsNamesIsRefused) {
  CsvOptions options = with_header("no");
  options.label = "kind";
  EXPECT_THAT(refused("x,y,kind\n" + words(3), options),
              AllOf(HasSubstr("data.label"), HasSubstr("data.header = no"), HasSubstr("numbers")));
}

TEST_F(DataCsvHeader, OfOtherFilesIsNoSampleEither) {
  const CsvSchema bare = load(words(9)).schema;
  EXPECT_FALSE(bare.header);
  EXPECT_THAT(refused("x,y,kind\n" + words(3), with(LabelUse::classes, "", &bare)),
              AllOf(HasSubstr("is a header"), HasSubstr("data.header = yes")));
  EXPECT_THAT(refused("0,1\n1.5,2.5\n", with(LabelUse::none, "", &bare)), HasSubstr("data.header"));
  EXPECT_THAT(refused("0,1,kind\n" + words(3), with(LabelUse::classes, "", &bare)), HasSubstr("data.header"));
  CsvOptions said = with(LabelUse::none, "", &bare);
  said.header = "yes";
  EXPECT_EQ(samples("0,1\n1.5,2.5\n", said), 1);
  said.header = "no";
  EXPECT_EQ(samples("0,1\n1.5,2.5\n", said), 2);
  EXPECT_EQ(samples("0,1,cat\n", with(LabelUse::classes, "", &bare)), 1);
}

class DataCsvColumns : public CsvFiles {};

TEST_F(DataCsvColumns, IndexWithoutANameIsRefused) {
  EXPECT_THAT(refused(",x,y,kind\n0,1.5,2,cat\n1,2.5,3,dog\n2,3.5,4,cat\n"),
              AllOf(HasSubstr("column number 0"), HasSubstr("no name"), HasSubstr("data.drop = 0")));
  EXPECT_THAT(refused("Unnamed: 0,x,kind\n0,1.5,cat\n1,2.5,dog\n"), HasSubstr("data.drop = Unnamed: 0"));
  // Of a part of a shuffled table.
  EXPECT_THAT(refused(",x,kind\n77,1.5,cat\n12,2.5,dog\n40,2.5,dog\n"), HasSubstr("another whole number"));
  EXPECT_THAT(load(",x,kind\n0,1.5,cat\n1,2.5,dog\n", without("0")).content.floats, ElementsAre(1.5f, 2.5f));
  // A feature whose name is missing.
  EXPECT_THAT(load(",x,kind\n0.5,1.5,cat\n0.5,2.5,dog\n0.25,1,cat\n").warnings,
              ElementsAre(AllOf(HasSubstr("has no name, is taken as a feature: data.drop = 0"))));
}

TEST_F(DataCsvColumns, ThatCountTheLinesAreWarnedOf) {
  const auto warnings = [&](const std::string& text) { return load(text).warnings; };
  EXPECT_THAT(warnings("id,x,kind\n1,1.5,cat\n2,0.5,dog\n3,1.5,cat\n"),
              ElementsAre(AllOf(HasSubstr("'id'"), HasSubstr("from 1"), HasSubstr("data.drop = id"))));
  EXPECT_THAT(warnings("x,when,kind\n1.5,0.0,cat\n0.5,1.0,dog\n1.5,2.0,cat\n"),
              ElementsAre(AllOf(HasSubstr("'when'"), HasSubstr("data.drop = when"))));
  EXPECT_THAT(warnings("10,1.5,cat\n11,0.5,dog\n12,1.5,cat\n"),
              ElementsAre(AllOf(HasSubstr("column number 0"), HasSubstr("data.drop = 0"))));
  EXPECT_THAT(warnings("patient_id,x,kind\n8423,1.5,cat\n17,0.5,dog\n991,1.5,cat\n"),
              ElementsAre(HasSubstr("'patient_id'")));
  EXPECT_THAT(warnings("x,y,kind\n1,1.5,cat\n2,0.5,dog\n4,1.5,cat\n"), IsEmpty());
  EXPECT_THAT(warnings("store_id,x,kind\n1,1.5,cat\n2,0.5,dog\n1,1.5,cat\n"), IsEmpty());
}

TEST_F(DataCsvColumns, ThatGoByStepsOrHoldEveryNumberOnceAreWarnedOf) {
  const auto warnings = [&](int rows, auto value) {
    std::string text = "x,when,kind\n";
    for (int i = 0; i < rows; ++i)
      text += std::to_string(i % 3) + "," + fmt::format("{}", value(i)) + (i % 2 == 0 ? ",cat\n" : ",dog\n");
    return load(text).warnings;
  };
  const auto named = [](const char* what) {
    return ElementsAre(AllOf(HasSubstr("column 'when'"), HasSubstr(what), HasSubstr("data.drop = when")));
  };
  EXPECT_THAT(warnings(12, [](int i) { return 2 * i; }), named("goes up by 2 from line to line"));
  EXPECT_THAT(warnings(12, [](int i) { return 11 - i; }), named("goes down by 1 "));
  EXPECT_THAT(warnings(12, [](int i) { return 1700000000 + 60 * i; }), named("goes up by 60 "));
  EXPECT_THAT(warnings(12, [](int i) { return 1700000000 + 0.25 * i; }), named("goes up by 0.25 "));
  EXPECT_THAT(warnings(30, [](int i) { return i * 7 % 30; }), named("holds 0, 1, … 29 once each"));
  EXPECT_THAT(warnings(30, [](int i) { return 100 + 5 * (i * 7 % 30); }),
              named("holds 100, 105, … 245 once"));
  EXPECT_THAT(warnings(19, [](int i) { return i * 7 % 19; }), IsEmpty());
  EXPECT_THAT(warnings(30, [](int i) { return i == 4 ? 0 : i * 7 % 30; }), IsEmpty());
  EXPECT_THAT(warnings(30, [](int i) { return i * i; }), IsEmpty());
  EXPECT_THAT(warnings(30, [](int) { return 5; }), IsEmpty());
  EXPECT_THAT(warnings(6, [](int i) { return 2 * i; }), IsEmpty()) << "few lines go by chance";
}

TEST_F(DataCsvColumns, OfEqualNamesAreRefusedWhereTheyAreRead) {
  const std::string text = "x,y,x,kind\n1,2,3,cat\n4,5,7,dog\n";
  EXPECT_THAT(refused(text),
              AllOf(HasSubstr("number 0 and 2 (from 0) are both named 'x'"), HasSubstr("data.drop")));
  EXPECT_THAT(load(text, without("2")).content.floats, ElementsAre(1, 2, 4, 5));
  EXPECT_THAT(refused("y,x,y\n1,2,3\n", with(LabelUse::classes, "2")), HasSubstr("both named 'y'"));
  // A run that began so keeps the order of its file.
  CsvSchema trained;
  trained.header = true;
  trained.columns = {"x", "y", "x", "kind"};
  trained.label_columns = {3};
  trained.class_names = {"cat", "dog"};
  EXPECT_EQ(load(text, with(LabelUse::classes, "", &trained)).content.samples, 2);
}

TEST_F(DataCsvColumns, AreLeftOutByNameOrNumber) {
  const std::string text = "id,x,note,kind\n7,1.5,a b,cat\n9,2.5,-,dog\n";
  const CsvContent csv = load(text, without("note, id"));
  EXPECT_THAT(csv.schema.dropped_columns, ElementsAre(2, 0));
  EXPECT_THAT(csv.content.floats, ElementsAre(1.5f, 2.5f));
  EXPECT_EQ(csv.content.sample_shape, Shape{1});
  EXPECT_THAT(csv.warnings, IsEmpty());
  EXPECT_EQ(load(text, without("0,2")).content.floats, csv.content.floats);
  EXPECT_THAT(load("7,1.5,a b,cat\n9,2.5,-,dog\n", without("0,2")).content.floats, ElementsAre(1.5f, 2.5f));

  EXPECT_THAT(refused(text, without("note,idd")),
              AllOf(HasSubstr("data.drop names the column 'idd'"), HasSubstr("did you mean 'id'?")));
  EXPECT_THAT(refused(text, without("9")), HasSubstr("data.drop = 9 is no column"));
  EXPECT_THAT(refused(text, without("99999999999999999999")), HasSubstr("is no column"));
  EXPECT_THAT(refused(text, without("id,id")), HasSubstr("twice"));
  EXPECT_THAT(refused(text, without("kind")), AllOf(HasSubstr("'kind'"), HasSubstr("data.label")));
  EXPECT_THAT(refused(text, without("id", "id")), HasSubstr("which is the label"));
  EXPECT_THAT(refused(text, without("id,x,note")), HasSubstr("at least one besides"));
  EXPECT_THAT(refused(text, without("note,")), HasSubstr("data.drop names the column ''"));
}

TEST_F(DataCsvColumns, OfOtherFilesAreFoundByName) {
  const CsvSchema trained = load("id,x,y,kind\n7,1.5,2,cat\n3,2.5,3,dog\n", without("id")).schema;
  const CsvOptions like = with(LabelUse::classes, "", &trained);
  const CsvContent other = load("kind,y,more,x\ndog,5,9,6\n", like);
  EXPECT_THAT(other.content.floats, ElementsAre(6, 5));
  EXPECT_THAT(other.content.labels, ElementsAre(1));
  EXPECT_THAT(other.unused, ElementsAre("more"));
  EXPECT_THAT(load("id,x,y,kind\nword,6,5,cat\n", like).unused, IsEmpty());
  EXPECT_THAT(refused("kind,y,X1\ndog,5,9\n", like),
              AllOf(HasSubstr("no column 'x'"), HasSubstr("which the training file has")));
  EXPECT_THAT(refused("y,x\n5,9\n", like), HasSubstr("no column 'kind'"));
  EXPECT_THAT(refused("x,y,y,kind\n5,9,9,cat\n", like), HasSubstr("several columns are named 'y'"));

  const CsvOptions inputs = with(LabelUse::none, "", &trained);
  EXPECT_THAT(load("y,x\n5,6\n", inputs).content.floats, ElementsAre(6, 5));
  EXPECT_THAT(load("kind,y,x,id\nunknown,5,6,\n", inputs).content.floats, ElementsAre(6, 5));
  EXPECT_THAT(load("kind,y,x,id\nunknown,5,6,\n", inputs).unused, IsEmpty());
  EXPECT_THAT(refused("1,5,6,cat\n", inputs), Not(IsEmpty()));
}

TEST_F(DataCsvColumns, OfFilesWithoutAHeaderAreFoundByPlace) {
  const CsvSchema trained = load("7,1.5,2,cat\n3,2.5,3,dog\n", without("0")).schema;
  const CsvOptions inputs = with(LabelUse::none, "", &trained);
  for (const char* text : {"1,6,5,cat\n", "1,6,5\n", "6,5\n"})
    EXPECT_THAT(load(text, inputs).content.floats, ElementsAre(6, 5)) << text;
  EXPECT_THAT(refused("6\n", inputs), AllOf(HasSubstr("has 1 field,"), HasSubstr("1 left out by data.drop")));
  EXPECT_THAT(refused("6,5,cat\n", with(LabelUse::classes, "", &trained)), HasSubstr("has 3 fields"));
}

TEST_F(DataCsvColumns, AreSeparatedByWhatTheKeySays) {
  for (const char delimiter : {';', '\t', '|', ':', ' '}) {
    std::string text = "a,b,kind\n1.5,2,cat\n-3,\"4\",dog\n";
    std::replace(text.begin(), text.end(), ',', delimiter);
    EXPECT_THAT(load(text, separated(delimiter)).content.floats, ElementsAre(1.5f, 2, -3, 4)) << delimiter;
  }
  EXPECT_THAT(
      load("  a \t b   kind  \n 1.5    2 cat\n  3\t4   \"big dog\" \n\n", separated(' ')).schema.class_names,
      ElementsAre("big dog", "cat"));
  EXPECT_THAT(refused("a\tb\ty\n1\t\t0\n", separated('\t')), HasSubstr("column 'b': the field is empty"));
  EXPECT_THAT(refused("a b y\n1 \"2\"3 0\n", separated(' ')), HasSubstr("text follows the closing quote"));
  EXPECT_THAT(refused("a;b;y\n1,5;2;0\n", separated(';')),
              AllOf(HasSubstr("'1,5' is not a number"), HasSubstr("decimal point")));
  EXPECT_THAT(refused("a;b;y\n1;2;0\n"),
              AllOf(HasSubstr("separated by commas"), HasSubstr("semicolons"), HasSubstr("data.delimiter")));
  EXPECT_THAT(refused("a\tb\ty\n1\t2\t0\n", with(LabelUse::classes, "y")),
              AllOf(HasSubstr("tabs"), HasSubstr("data.delimiter")));
}

}  // namespace
}  // namespace lockstep
