// What is a header, which columns are read, and which look as if they should not be.

#include <algorithm>
#include <gmock/gmock.h>

#include "trainer/csv_test_support.h"

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
              ElementsAre(HasSubstr("no name")));
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
  EXPECT_THAT(refused("6\n", inputs), AllOf(HasSubstr("has 1 fields"), HasSubstr("1 left out by data.drop")));
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
