#include "core/log.h"

#include <csignal>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <sys/resource.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "support/temp_dir.h"

namespace lockstep {
namespace {

class LogTest : public testing::Test {
 protected:
  test::TempDir dir;
  FileDescriptor file{::open((dir / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)};
  std::string written() { return test::read_file_bytes(dir / "log"); }
};

TEST_F(LogTest, MarksWarningsAndErrors) {
  const Log log(LogLevel::info, file.get());
  log.info("{} slices on {} ranks", 12, 4);
  log.warning("low on {}", "space");
  log.error("bad");
  EXPECT_EQ(written(),
            "lockstep: 12 slices on 4 ranks\nlockstep: warning: low on space\nlockstep: error: bad\n");
}

TEST_F(LogTest, WhatAMessageHoldsOfTheOutsideMovesNoCursorAndForgesNoLine) {
  const Log log(LogLevel::info, file.get());
  log.error("'{}' is missing", "a\x1b[2J\nlockstep: error: forged");
  log.error("model.layers:\n  {}\n  ^", "conv");
  log.line(LogLevel::info, std::string(100'000, 'x'));
  const std::string text = written();
  EXPECT_TRUE(
      text.starts_with("lockstep: error: 'a\\x1b[2J\\nlockstep: error: forged' is missing\n"
                       "lockstep: error: model.layers:\n  conv\n  ^\n"));
  EXPECT_LT(text.size(), 3000u);
}

TEST_F(LogTest, NamesTheRankOnceItIsKnown) {
  Log log(LogLevel::info, file.get());
  log.set_rank(3);
  log.warning("x");
  log.set_rank(-1);
  log.info("y");
  EXPECT_EQ(written(), "lockstep: warning: [rank 3] x\nlockstep: y\n");
}

TEST_F(LogTest, ObeysItsLevel) {
  Log log(LogLevel::warning, file.get());
  log.info("a");
  log.warning("b");
  log.set_level(LogLevel::error);
  log.warning("c");
  log.error("d");
  EXPECT_EQ(written(), "lockstep: warning: b\nlockstep: error: d\n");
}

TEST_F(LogTest, PrintsBracesAsTheyAre) {
  const Log log(LogLevel::info, file.get());
  log.line(LogLevel::info, "{} {0:x");
  EXPECT_EQ(written(), "lockstep: {} {0:x\n");
}

TEST_F(LogTest, LinesOfThreadsDoNotMix) {
  const Log log(LogLevel::info, file.get());
  constexpr int threads = 4, lines = 500;
  std::vector<std::thread> writers;
  writers.reserve(threads);
  for (int t = 0; t < threads; ++t) {
    writers.emplace_back([&log, t] {
      for (int i = 0; i < lines; ++i) log.info("{}", std::string(100, static_cast<char>('a' + t)));
    });
  }
  for (std::thread& writer : writers) writer.join();
  const std::string text = written();
  std::map<std::string, int> count;
  for (const std::string_view line : split(trim(text), '\n')) ++count[std::string(line)];
  ASSERT_EQ(count.size(), std::size_t{threads});
  for (const auto& [line, n] : count) EXPECT_EQ(n, lines) << line;
}

TEST_F(LogTest, ABrokenStreamIsNoError) {
  const Log log(LogLevel::info, -1);
  EXPECT_NO_THROW(log.info("lost"));
}

TEST_F(LogTest, AFileGetsAllLinesWithTheTimeAlsoEarlierOnes) {
  {
    Log log(LogLevel::info, file.get());
    log.set_rank(2);
    log.warning("before");
    log.note("nobody hears this");
    EXPECT_FALSE(log.has_file());
    log.append_to(dir / "file");
    EXPECT_TRUE(log.has_file());
    log.error("after");
    log.note("a table\nof two lines\n");
  }
  EXPECT_EQ(written(), "lockstep: warning: [rank 2] before\nlockstep: error: [rank 2] after\n");
  const std::string bytes = test::read_file_bytes(dir / "file");
  std::vector<std::string> lines;
  for (const std::string_view line : split(bytes, '\n')) {
    if (line.empty()) continue;
    // 2026-11-22T03:14:15.926Z and a space
    ASSERT_GT(line.size(), 25u);
    EXPECT_EQ(line.substr(4, 1), "-");
    EXPECT_EQ(line.substr(10, 1), "T");
    EXPECT_EQ(line.substr(23, 2), "Z ");
    lines.emplace_back(line.substr(25));
  }
  EXPECT_EQ(lines, (std::vector<std::string>{"lockstep: warning: [rank 2] before",
                                             "lockstep: error: [rank 2] after", "a table", "of two lines"}));
  // Another start goes on with it.
  Log next(LogLevel::info, file.get());
  next.append_to(dir / "file");
  next.note("more");
  EXPECT_TRUE(test::read_file_bytes(dir / "file").starts_with(bytes));
}

TEST_F(LogTest, AFileThatCannotBeWrittenIsRefused) {
  const auto refusal = [&](const std::string& path) {
    Log log(LogLevel::info, file.get());
    try {
      log.append_to(path);
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_NE(refusal(dir / "absent/file").find("No such file"), std::string::npos);
  EXPECT_NE(refusal(dir / "").find("directory"), std::string::npos);
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_NE(refusal(dir / "pipe").find(dir / "pipe"),
            std::string::npos);  // and it does not wait for a reader
  EXPECT_NE(refusal("/dev/null").find("regular"), std::string::npos);
}

TEST_F(LogTest, AFileThatFillsUpIsToldOnce) {
  Log log(LogLevel::info, file.get());
  log.append_to(dir / "file");
  // The kernel refuses what would make the file longer than this, as a full disk would.
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit small = before;
  small.rlim_cur = 200;
  const auto old = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  for (int i = 0; i < 20; ++i) log.note("twenty letters in all");
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old);
  EXPECT_FALSE(log.has_file());
  EXPECT_NE(written().find("can no longer be written"), std::string::npos) << written();
  EXPECT_EQ(written().find("can no longer"), written().rfind("can no longer"));
}

}  // namespace
}  // namespace lockstep
