#include "trainer/evaluate/prediction_rows.h"

#include <fcntl.h>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/wait.h>
#include <unistd.h>

#include "data/test_support.h"
#include "support/temp_dir.h"
#include "trainer/evaluate/csv_field.h"
#include "trainer/evaluate/id_columns.h"
#include "trainer/evaluate/output_file.h"

namespace lockstep {
namespace {

using test::error_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

DataInfo classifier() {
  DataInfo info;
  info.sample_shape = Shape{2};
  info.classes = 3;
  info.class_names = {"cat", "dog, old", "emu"};
  info.csv = {true, {"x", "y", "kind"}, {2}, {}, info.class_names};
  return info;
}

IdColumns ids(std::vector<std::string> names, std::vector<std::string> values) {
  return {std::move(names), std::move(values)};
}

TEST(PredictionRows, CsvHasAHeadAndOneFieldAColumn) {
  const DataInfo info = classifier();
  const PredictionRows rows(info, PredictionFormat::csv, ids({"who", "label"}, {"a", "7", "b \"c\"", "8"}));
  EXPECT_EQ(rows.head(),
            "index,who,id.label,label,class,probability,probability.cat,\"probability.dog, old\","
            "probability.emu\n");
  const float inf = 1000;
  EXPECT_EQ(rows.row(0, std::vector<float>{0, inf, 0}), "0,a,7,1,\"dog, old\",1,0,1,0\n");
  EXPECT_EQ(rows.row(1, std::vector<float>{5, 5, -inf}), "1,\"b \"\"c\"\"\",8,0,cat,0.5,0.5,0.5,0\n");
}

TEST(PredictionRows, JsonKeepsIdsApartFromWhatIsItsOwn) {
  const DataInfo info = classifier();
  const PredictionRows rows(info, PredictionFormat::json_lines, ids({"label"}, {"caf\xe9\n"}));
  EXPECT_EQ(rows.head(), "");
  const std::string row = rows.row(0, std::vector<float>{0, 0, 1});
  EXPECT_EQ(row.find('\n'), row.size() - 1);
  const nlohmann::json j = nlohmann::json::parse(row);
  EXPECT_EQ(j["label"], 2);
  EXPECT_EQ(j["class"], "emu");
  EXPECT_EQ(j["id"]["label"], "caf\xef\xbf\xbd\n") << "JSON is UTF-8";
  EXPECT_EQ(j["probabilities"].size(), 3u);
}

TEST(PredictionRows, RegressionIsInTheUnitsOfTheData) {
  MemoryContent content;
  content.file = "t";
  content.sample_shape = Shape{1};
  content.samples = 2;
  content.floats = {0, 0};
  content.target_width = 2;
  content.targets = {100, 0, 300, 4};
  const MemoryDataset data(std::move(content));
  DataInfo info;
  info.target_width = 2;
  info.csv = {true, {"x", "price", "size"}, {1, 2}, {}, {}};
  info.normalizer.fit_targets(data);
  const PredictionRows csv(info, PredictionFormat::csv, {});
  EXPECT_EQ(csv.head(), "index,prediction.price,prediction.size\n");
  EXPECT_EQ(csv.row(3, std::vector<float>{1, -0.5f}), "3,300,1\n");
  const PredictionRows lines(info, PredictionFormat::json_lines, {});
  EXPECT_EQ(lines.row(3, std::vector<float>{1, -0.5f}), "{\"index\":3,\"prediction\":[300.0,1.0]}\n");
  info.normalizer = Normalizer();
  EXPECT_EQ(lines.row(0, std::vector<float>{0.1f, 2}),
            "{\"index\":0,\"prediction\":[0.10000000149011612,2.0]}\n");
}

TEST(PredictionRows, OfManyClassesCsvHasNoColumnEach) {
  DataInfo info;
  info.classes = 6000;
  const PredictionRows rows(info, PredictionFormat::csv, {});
  EXPECT_EQ(rows.head(), "index,label,probability\n");
}

TEST(PredictionRows, TheEndingDecidesTheFormat) {
  EXPECT_EQ(prediction_format("a.CSV"), PredictionFormat::csv);
  for (const char* name : {"", "a.jsonl", "a.json", "csv", "/dev/full"})
    EXPECT_EQ(prediction_format(name), PredictionFormat::json_lines) << name;
  EXPECT_THAT(error_of([] { prediction_format("a.csv.gz"); }), HasSubstr("a.csv.gz"));
}

// ---- Id columns ----

TEST(IdColumns, WhatTrainingDidNotKnowIsTakenOutAndTheRestStays) {
  CsvText text{"\xef\xbb\xbfname,x,y,note\n\"Ann, \"\"B\"\"\",1,2,\"two\nlines\"\n Bo ,3,4,\n", "'in.csv'"};
  const IdColumns found = take_id_columns(text, "note, name", classifier().csv, true);
  EXPECT_THAT(found.names, ElementsAre("note", "name"));
  EXPECT_THAT(found.values, ElementsAre("two\nlines", "Ann, \"B\"", "", "Bo"));
  EXPECT_EQ(text.content, "x,y\n\"1\n\",2\n3,4\n") << "a line keeps its number";
}

TEST(IdColumns, AColumnOfTheTrainingFileIsCarriedAlongAndStays) {
  const std::string before = "x,y,kind\n1,2,emu\n";
  CsvText text{before, "'in.csv'"};
  EXPECT_THAT(take_id_columns(text, "kind,0", classifier().csv, true).values, ElementsAre("emu", "1"));
  EXPECT_EQ(text.content, before);
}

TEST(IdColumns, WithoutAHeaderNumbersNameThem) {
  CsvSchema schema{false, {"0", "1", "2"}, {2}, {}, {}};
  CsvText text{"a,1,2,0\nb,3,4,1\n", "'in.csv'"};
  EXPECT_THAT(take_id_columns(text, "0", schema, false).values, ElementsAre("a", "b"));
  EXPECT_EQ(text.content, "1,2,0\n3,4,1\n");
  EXPECT_THAT(take_id_columns(text, "2", schema, false).values, ElementsAre("0", "1")) << "the label";
  EXPECT_EQ(text.content, "1,2,0\n3,4,1\n");
}

TEST(IdColumns, TheInputSaysItselfWhetherItHasAHeader) {
  CsvText bare{"1,2,cat,N1\n3,4,dog,N2\n", "'in.csv'"};
  EXPECT_THAT(take_id_columns(bare, "3", classifier().csv, false).values, ElementsAre("N1", "N2"));
  EXPECT_EQ(bare.content, "1,2,cat\n3,4,dog\n");
  CsvText unlabelled{"7,1.0,2.0\n8,1.0,2.5\n", "'in.csv'"};
  EXPECT_THAT(take_id_columns(unlabelled, "0", classifier().csv, false).values, ElementsAre("7", "8"))
      << "2.0 is no class, so the last column is a feature";
  EXPECT_EQ(unlabelled.content, "1.0,2.0\n1.0,2.5\n");
  // The other way round: trained without a header.
  CsvText headed{"id,x,y,kind\n77,1,2,0\n88,3,4,1\n", "'in.csv'"};
  const IdColumns found = take_id_columns(headed, "id", {false, {"0", "1", "2"}, {2}, {}, {}}, true);
  EXPECT_THAT(found.names, ElementsAre("id"));
  EXPECT_THAT(found.values, ElementsAre("77", "88"));
  EXPECT_EQ(headed.content, "x,y,kind\n1,2,0\n3,4,1\n");
}

TEST(IdColumns, ToldByTheirPlaceAreNeverTakenForFeatures) {
  const CsvSchema schema{false, {"0", "1", "2"}, {2}, {}, {}};
  const auto left = [&](const std::string& content, const std::string& asked) {
    CsvText text{content, "'in.csv'"};
    take_id_columns(text, asked, schema, false);
    return text.content;
  };
  EXPECT_EQ(left("c77,1,2\nc88,3,4\n", "0"), "1,2\n3,4\n") << "a word is no feature";
  EXPECT_EQ(left("1,2,cat\n", "0"), "1,2,cat\n") << "nor is a label of words: the id is a feature too";
  EXPECT_EQ(left("a,b,1,2\n", "0,1"), "1,2\n");
  EXPECT_EQ(left("77,1,2,0\n", "0"), "1,2,0\n");
  EXPECT_EQ(left("77,5,1,2,0\n", "0,1"), "1,2,0\n");
  EXPECT_THAT(error_of([&] { left("77,1,2\n88,3,4\n", "0"); }),
              AllOf(HasSubstr("--id 0"), HasSubstr("not clear"), HasSubstr("4 in all")));
}

TEST(IdColumns, WhatIsNotThereIsRefused) {
  const auto refusal = [](const std::string& content, const std::string& asked) {
    return error_of([&] {
      CsvText text{content, "'in.csv'"};
      take_id_columns(text, asked, classifier().csv, true);
    });
  };
  EXPECT_THAT(refusal("name,x,y\n", "nam"), AllOf(HasSubstr("'nam'"), HasSubstr("did you mean 'name'")));
  EXPECT_THAT(refusal("name,x,y\n", "9"), HasSubstr("'9'"));
  EXPECT_THAT(refusal("name,x,y\n", "\x1b[2J"), HasSubstr("'\\x1b[2J'"));
  EXPECT_THAT(refusal("name,x,y\n", "name,name"), HasSubstr("twice"));
  EXPECT_THAT(refusal("name,x,y\n", "name,0"), HasSubstr("twice"));
  EXPECT_THAT(refusal("name,name,x\n", "name"), HasSubstr("two columns"));
  EXPECT_THAT(refusal("name,x,y\n1,2\n", "name"), HasSubstr("line 2 has 2 fields"));
  EXPECT_THAT(refusal("", "name"), HasSubstr("no line of data"));
}

TEST(CsvField, QuotesWhatNeedsIt) {
  EXPECT_EQ(csv_field("a b"), "a b");
  for (const char* text : {"a,b", "\"", "a\n", " a", "a ", "", "a\r"}) {
    EXPECT_TRUE(csv_field(text).starts_with('"')) << text;
  }
}

// ---- Output files ----

class Output : public testing::Test {
 protected:
  test::TempDir dir;
  std::size_t files() {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()));
  }
};

TEST_F(Output, IsWholeOrNotThere) {
  const std::string path = dir / "out.csv";
  test::write_file_bytes(path, "earlier");
  {
    OutputFile file("--output", path);
    file.append(std::string(1 << 20, 'x'));
    EXPECT_EQ(test::read_file_bytes(path), "earlier");
    OutputFile other("--output", path);
    other.append("second");
    other.close();
    EXPECT_EQ(test::read_file_bytes(path), "second");
  }
  EXPECT_EQ(files(), 1u) << "what was not closed leaves nothing";
  OutputFile file("--output", path);
  file.append("a");
  file.append("b");
  file.close();
  EXPECT_EQ(test::read_file_bytes(path), "ab");
  EXPECT_EQ(files(), 1u);
}

TEST_F(Output, WhatKilledWritersLeftIsRemovedByTheNextOne) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  const std::string path = dir / "out.csv", dead = path + ".tmp." + std::to_string(child);
  for (const bool exported : {false, true}) {
    for (const char* number : {".0", ".17", ".o3"}) test::write_file_bytes(dead + number, "left");
    const std::vector<std::string> others = {dead,
                                             dead + ".x",
                                             dead + ".o",
                                             dead + ".1.2",
                                             path + ".tmp.x.1",
                                             dir / "other.csv.tmp." + std::to_string(child) + ".0",
                                             path + ".tmp." + std::to_string(::getpid()) + ".900"};
    for (const std::string& other : others) test::write_file_bytes(other, "not this one's");
    fs::create_directories(dead + ".4");
    // Another host's process of this number still writes it.
    const std::string living = dead + ".5";
    fs::remove(living);
    const FileWriter writer(living);
    if (exported) {
      EXPECT_EQ(replaceable_path("--output", path), path);
    } else {
      OutputFile file("--output", path);
      file.append("new");
      file.close();
    }
    for (const char* number : {".0", ".17", ".o3"}) EXPECT_FALSE(fs::exists(dead + number)) << number;
    for (const std::string& other : others) EXPECT_TRUE(fs::exists(other)) << other;
    EXPECT_TRUE(fs::exists(dead + ".4"));
    EXPECT_TRUE(fs::exists(living));
  }
  EXPECT_EQ(test::read_file_bytes(path), "new");
}

TEST_F(Output, FollowsALinkAndLeavesItALink) {
  test::write_file_bytes(dir / "target", "old");
  fs::create_symlink(dir / "target", dir / "link");
  OutputFile file("--output", dir / "link");
  file.append("new");
  file.close();
  EXPECT_TRUE(fs::is_symlink(dir / "link"));
  EXPECT_EQ(test::read_file_bytes(dir / "target"), "new");
  EXPECT_EQ(replaceable_path("--output", dir / "link"), fs::canonical(dir / "target").string());
}

TEST_F(Output, DevicesAreWrittenAsItComes) {
  OutputFile none("--output", "/dev/null");
  none.append("x");
  none.close();
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  OutputFile full("--output", "/dev/full");
  full.append("x");
  EXPECT_THAT(error_of([&] { full.close(); }), AllOf(HasSubstr("--output /dev/full"), HasSubstr("space")));
  // A shell's redirection: a new file in its place would be lost on whoever reads the old one.
  test::write_file_bytes(dir / "redirected", "");
  const FileDescriptor fd(::open((dir / "redirected").c_str(), O_WRONLY | O_CLOEXEC));
  const std::string link = "/dev/fd/" + std::to_string(fd.get());
  OutputFile file("--output", link);
  file.append("here");
  file.close();
  EXPECT_EQ(test::read_file_bytes(dir / "redirected"), "here");
  EXPECT_EQ(files(), 1u);
  EXPECT_THAT(error_of([&] { replaceable_path("--output", link); }), HasSubstr("name another"));
}

TEST_F(Output, WhatCannotBeWrittenIsRefusedBeforeAnythingIsComputed) {
  test::write_file_bytes(dir / "input.csv", "data");
  const auto refusal = [&](const std::string& path) {
    return error_of([&] { OutputFile("--output", path, {dir / "input.csv", "no such file"}); });
  };
  EXPECT_THAT(refusal(dir / "input.csv"), AllOf(HasSubstr("--output"), HasSubstr("would be lost")));
  fs::create_symlink(dir / "input.csv", dir / "link");
  EXPECT_THAT(refusal(dir / "link"), HasSubstr("would be lost"));
  EXPECT_THAT(refusal(dir.path()), HasSubstr("is a directory"));
  EXPECT_THAT(refusal(dir / "absent/out"), HasSubstr("absent/out"));
  EXPECT_THAT(refusal(""), HasSubstr("no name"));
  EXPECT_EQ(test::read_file_bytes(dir / "input.csv"), "data");
  EXPECT_EQ(files(), 2u);
}

TEST_F(Output, LeavesNothingOfAProcessThatIsKilled) {
  const int flags = O_TMPFILE | O_WRONLY | O_CLOEXEC;
  if (!FileDescriptor(::open(dir.path().c_str(), flags, 0600)))
    GTEST_SKIP() << "no files without a name here";
  OutputFile file("--output", dir / "out.csv");
  file.append(std::string(1 << 20, 'x'));
  EXPECT_EQ(files(), 0u) << "a kill now would leave nothing";
  file.close();
  EXPECT_EQ(files(), 1u);
  EXPECT_EQ(test::read_file_bytes(dir / "out.csv").size(), std::size_t{1} << 20);
}

TEST_F(Output, NeverTakesThePlaceOfWhatAnyRunKeeps) {
  fs::create_directories(dir / "run/checkpoints/gen-000001/step-000000005");
  fs::create_directories(dir / "plain");
  test::write_file_bytes(dir / "run/config.resolved.ini", "kept");
  test::write_file_bytes(dir / "mine.ini", "kept");
  test::write_file_bytes(dir / "run/checkpoints/gen-000001/step-000000005/manifest.json", "kept");
  fs::create_directory_symlink(dir / "run", dir / "link");
  for (const char* path :
       {"run/config.resolved.ini", "run/best.safetensors", "run/test.json", "run/log.rank3.txt", "mine.ini",
        "run/checkpoints/gen-000001/step-000000005/manifest.json", "link/config.resolved.ini",
        "run/checkpoints/gen-000001/new.json", "link/../run/metrics.jsonl"}) {
    EXPECT_THAT(error_of([&] { OutputFile("--output", dir / path); }), HasSubstr("would be lost")) << path;
    EXPECT_THAT(error_of([&] { replaceable_path("--output", dir / path); }), HasSubstr("would be lost"))
        << path;
  }
  EXPECT_EQ(test::read_file_bytes(dir / "mine.ini"), "kept");
  for (const char* path : {"run/answers.csv", "plain/test.json", "new.ini"})
    EXPECT_EQ(replaceable_path("--output", dir / path), dir / path);
  EXPECT_THAT(error_of([] { OutputFile("--output", "-"); }), HasSubstr("--output -: "));
  EXPECT_THAT(error_of([] { replaceable_path("--output", "-"); }), HasSubstr("--output -: "));
}

}  // namespace
}  // namespace lockstep
