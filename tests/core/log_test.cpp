#include "core/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

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

}  // namespace
}  // namespace lockstep
