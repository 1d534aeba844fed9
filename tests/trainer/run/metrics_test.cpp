#include "trainer/run/metrics.h"

#include <cstdint>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>

#include "core/error.h"
#include "support/mount.h"
#include "support/process.h"
#include "support/temp_dir.h"

namespace lockstep {
namespace {

using testing::HasSubstr;

MetricsRecord train_record(std::int64_t step) {
  MetricsRecord r("train", step);
  r.add("loss", 1.0 / static_cast<double>(step + 1));
  return r;
}

std::string lines(std::int64_t from, std::int64_t to) {
  std::string out;
  for (std::int64_t s = from; s <= to; ++s) out += train_record(s).json() + "\n";
  return out;
}

/// What a file holds, without the time of day.
std::string untimed(const std::string& text) {
  return std::regex_replace(text, std::regex(R"(,"time":"[^"]*")"), "");
}

TEST(MetricsRecord, KeepsOrderAndTypes) {
  MetricsRecord r("epoch", 7);
  r.add("epoch", 1)
      .add("accuracy", 0.5)
      .add("best", true)
      .add("name", "a \"b\"\n")
      .add("list", std::vector<double>{1, 0.25});
  EXPECT_EQ(
      r.json(),
      R"({"kind":"epoch","step":7,"epoch":1,"accuracy":0.5,"best":true,"name":"a \"b\"\n","list":[1.0,0.25]})");
}

TEST(MetricsRecord, NumbersAreExact) {
  MetricsRecord r("x", std::numeric_limits<std::int64_t>::max());
  r.add("third", 1.0 / 3)
      .add("tiny", 5e-324)
      .add("lr", 1e-3)
      .add("seed", std::numeric_limits<std::uint64_t>::max());
  const nlohmann::json back = nlohmann::json::parse(r.json());
  EXPECT_EQ(back["third"].get<double>(), 1.0 / 3);
  EXPECT_EQ(back["tiny"].get<double>(), 5e-324);
  EXPECT_EQ(back["seed"].get<std::uint64_t>(), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(back["step"].get<std::int64_t>(), std::numeric_limits<std::int64_t>::max());
  EXPECT_THAT(r.json(), HasSubstr("\"lr\":0.001,"));
}

TEST(MetricsRecord, WhatIsNotFiniteIsNull) {
  MetricsRecord r("x", 0);
  r.add("nan", std::numeric_limits<double>::quiet_NaN()).add("inf", std::numeric_limits<double>::infinity());
  EXPECT_EQ(r.json(), R"({"kind":"x","step":0,"nan":null,"inf":null})");
}

TEST(MetricsRecord, SurvivesBadUtf8AndRefusesAKeyTwice) {
  MetricsRecord r("x", 0);
  r.add("path", std::string("a\xff"));
  EXPECT_TRUE(nlohmann::json::accept(r.json()));
  EXPECT_THROW(r.add("step", 1), InternalError);
}

TEST(MetricsFile, EveryLineEndsInTheTimeOfDay) {
  const test::TempDir dir;
  MetricsFile file = MetricsFile::create(dir / "m");
  file.write(train_record(1));
  EXPECT_THAT(test::read_file_bytes(dir / "m"),
              testing::MatchesRegex(R"(.*,"time":"20[0-9]+-[01][0-9]-[0-3][0-9]T[0-9:]+[.][0-9]+Z"[}].)"));
}

TEST(MetricsFile, ALineIsThereAsSoonAsItIsWritten) {
  const test::TempDir dir;
  MetricsFile file = MetricsFile::create(dir / "metrics.jsonl");
  for (std::int64_t step = 1; step <= 3; ++step) {
    file.write(train_record(step));
    EXPECT_EQ(untimed(test::read_file_bytes(dir / "metrics.jsonl")), lines(1, step));
  }
}

TEST(MetricsFile, CreateBeginsAnew) {
  const test::TempDir dir;
  test::write_file_bytes(dir / "metrics.jsonl", lines(1, 9));
  MetricsFile file = MetricsFile::create(dir / "metrics.jsonl");
  EXPECT_EQ(test::read_file_bytes(dir / "metrics.jsonl"), "");
}

TEST(MetricsFile, ResumeDropsStepsThatAreMadeAgain) {
  const test::TempDir dir;
  test::write_file_bytes(dir / "metrics.jsonl", lines(1, 9));
  MetricsFile file = MetricsFile::resume(dir / "metrics.jsonl", 6);
  EXPECT_EQ(file.dropped(), 3);
  EXPECT_EQ(test::read_file_bytes(dir / "metrics.jsonl"), lines(1, 6));
  file.write(train_record(7));
  EXPECT_EQ(untimed(test::read_file_bytes(dir / "metrics.jsonl")), lines(1, 7));
}

TEST(MetricsFile, ResumeDropsTornAndForeignLines) {
  const test::TempDir dir;
  const std::string torn = R"({"kind":"train","step":3,"lo)";
  test::write_file_bytes(dir / "a", lines(1, 2) + torn);
  EXPECT_EQ(MetricsFile::resume(dir / "a", 100).dropped(), 1);
  EXPECT_EQ(test::read_file_bytes(dir / "a"), lines(1, 2));
  // A whole object without its newline may have lost digits of nothing, but its line is not whole: it goes
  // too.
  test::write_file_bytes(dir / "b", lines(1, 2) + R"({"kind":"train","step":3})");
  EXPECT_EQ(MetricsFile::resume(dir / "b", 100).dropped(), 1);
  test::write_file_bytes(
      dir / "c", "[1]\n{}\n{\"step\":\"1\"}\n{\"step\":1.5}\n\n" + lines(4, 4) + std::string("\0\xff\n", 3));
  EXPECT_EQ(MetricsFile::resume(dir / "c", 4).dropped(), 6);
  EXPECT_EQ(test::read_file_bytes(dir / "c"), lines(4, 4));
}

TEST(MetricsFile, ResumeDropsTheTestAtTheEndWhichIsMadeAgain) {
  const test::TempDir dir;
  test::write_file_bytes(dir / "a", lines(1, 2) + MetricsRecord("test", 2).json() + "\n");
  EXPECT_EQ(MetricsFile::resume(dir / "a", 2).dropped(), 1);
  EXPECT_EQ(test::read_file_bytes(dir / "a"), lines(1, 2));
}

TEST(MetricsFile, ResumeWithoutAFileOrWithNothingToDrop) {
  const test::TempDir dir;
  MetricsFile fresh = MetricsFile::resume(dir / "new.jsonl", 5);
  fresh.write(train_record(6));
  EXPECT_EQ(untimed(test::read_file_bytes(dir / "new.jsonl")), lines(6, 6));
  MetricsFile again = MetricsFile::resume(dir / "new.jsonl", 6);
  EXPECT_EQ(again.dropped(), 0);
  EXPECT_EQ(untimed(test::read_file_bytes(dir / "new.jsonl")), lines(6, 6));
}

TEST(MetricsFile, AStartThatTrainsNothingAddsToTheFileOfAnother) {
  const test::TempDir dir;
  const std::string path = dir / "a";
  MetricsFile other = MetricsFile::create(path);
  other.write(train_record(1));
  MetricsFile added = MetricsFile::add_to(path);
  added.write(MetricsRecord("test", 1));
  other.write(train_record(2));
  EXPECT_EQ(untimed(test::read_file_bytes(path)),
            lines(1, 1) + MetricsRecord("test", 1).json() + "\n" + lines(2, 2));
  // A test that is made again, a torn line, and no file at all.
  EXPECT_EQ(MetricsFile::add_to(path).dropped(), 1);
  EXPECT_EQ(untimed(test::read_file_bytes(path)), lines(1, 2));
  test::write_file_bytes(path, lines(1, 2) + "{\"kind\"");
  EXPECT_EQ(MetricsFile::add_to(path).dropped(), 1);
  EXPECT_EQ(test::read_file_bytes(path), lines(1, 2));
  MetricsFile::add_to(dir / "new").write(train_record(3));
  EXPECT_EQ(untimed(test::read_file_bytes(dir / "new")), lines(3, 3));
}

TEST(MetricsFile, UnwritableNamesThePath) {
  const test::TempDir dir;
  try {
    MetricsFile::create(dir / "none/metrics.jsonl");
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr(dir / "none"));
    EXPECT_EQ(e.code(), ExitCode::input);
  }
}

TEST(MetricsFile, AFullDiskCostsLinesAndNotTheRun) {
  const test::TempDir dir;
  const test::TmpfsMount disk(dir.path(), "size=16k");
  if (!disk.mounted()) LOCKSTEP_SKIP_WITHOUT("mount", disk.reason());
  const std::string path = dir / "metrics.jsonl";
  int warnings = 0;
  MetricsFile file = MetricsFile::create(path, [&](const std::string& cause) {
    EXPECT_THAT(cause, HasSubstr("No space left on device"));
    ++warnings;
  });
  file.write(train_record(0));
  test::write_file_bytes(dir / "filler", std::string(11'000, 'x'));
  for (std::int64_t step = 1; step < 400; ++step) file.write(train_record(step));
  // A shorter line may still fit, so there may be a second row of lost ones.
  EXPECT_GE(warnings, 1);
  EXPECT_LE(warnings, 5);
  const std::string kept = test::read_file_bytes(path);
  EXPECT_EQ(kept.back(), '\n') << "no torn line";
  std::filesystem::remove(dir / "filler");
  file.write(train_record(400));
  EXPECT_EQ(untimed(test::read_file_bytes(path)), untimed(kept) + train_record(400).json() + "\n");
  // Without room for a copy a resume cuts the file itself.
  const test::TempDir other;
  const test::TmpfsMount tight(other.path(), "size=16k");
  ASSERT_TRUE(tight.mounted());
  test::write_file_bytes(other / "m", lines(1, 200));
  ASSERT_GT(std::filesystem::file_size(other / "m"), 8192u);
  EXPECT_EQ(MetricsFile::resume(other / "m", 180).dropped(), 20);
  EXPECT_EQ(test::read_file_bytes(other / "m"), lines(1, 180));
  // Not where lines in the middle would have to go: nothing is lost then.
  test::write_file_bytes(other / "m", "{}\n" + lines(1, 180));
  EXPECT_THROW(MetricsFile::resume(other / "m", 180), InputError);
  EXPECT_EQ(test::read_file_bytes(other / "m"), "{}\n" + lines(1, 180));
}

}  // namespace
}  // namespace lockstep
