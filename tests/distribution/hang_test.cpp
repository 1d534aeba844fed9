// The watchdog on real ranks that break in chosen ways: hang_program under mpirun.

#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <sstream>

#include "support/hang_report.h"
#include "support/process.h"
#include "support/temp_dir.h"

namespace lockstep::test {
namespace {

constexpr double timeout_s = 5;  // what these ranks do takes milliseconds, on a machine that is not too busy

struct Outcome {
  ProcessResult result;
  std::map<int, long> pids;  ///< by rank
  std::string summary;       ///< the first line of the report
};

Outcome run(int ranks, const std::string& fault, int victim, const std::string& directory = "") {
  std::vector<std::string> argv = {HANG_PROGRAM, fault, std::to_string(victim), std::to_string(timeout_s)};
  if (!directory.empty()) argv.push_back(directory);
  Outcome o;
  o.result = run_mpi(ranks, argv, {.timeout_s = 90});
  std::istringstream out(o.result.out);
  for (std::string line; std::getline(out, line);) {
    int rank = 0;
    long pid = 0;
    if (std::sscanf(line.c_str(), "RANK %d PID %ld", &rank, &pid) == 2) o.pids[rank] = pid;
  }
  std::istringstream err(o.result.err);
  for (std::string line; std::getline(err, line);)
    if (line.find("nothing has moved") != std::string::npos) o.summary = line;
  return o;
}

int count(const std::string& text, const std::string& part) {
  int n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

void expect_hang(const Outcome& o, int ranks, const std::set<int>& blamed) {
  EXPECT_EQ(o.result.exit_code, 4) << o.result.describe();
  EXPECT_FALSE(o.result.timed_out);
  EXPECT_EQ(count(o.result.err, "nothing has moved"), 1) << o.result.err;
  EXPECT_EQ(named_ranks(o.summary), blamed) << o.result.err;
  EXPECT_LT(o.result.seconds, timeout_s + 30) << o.result.describe();
  ASSERT_EQ(o.pids.size(), static_cast<std::size_t>(ranks)) << o.result.describe();
  for (const int rank : blamed)
    EXPECT_NE(o.summary.find("pid " + std::to_string(o.pids.at(rank))), std::string::npos) << o.result.err;
  for (const auto& [rank, pid] : o.pids) EXPECT_TRUE(ends_soon(pid)) << "rank " << rank << " lives on";
}

TEST(Hang, ARankThatSpinsIsNamed) {
  for (const auto& [ranks, victim] : {std::pair(2, 0), {2, 1}, {3, 1}, {4, 3}}) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks, victim " + std::to_string(victim));
    const Outcome o = run(ranks, "spin", victim);
    expect_hang(o, ranks, {victim});
    EXPECT_NE(o.summary.find("forward and backward of step 5"), std::string::npos) << o.summary;
    EXPECT_NE(o.summary.find(ranks == 2 ? "1 rank waits in bucket " : " wait in bucket "), std::string::npos)
        << o.summary;
  }
}

TEST(Hang, OneRankThatSpinsAloneEndsToo) {
  const Outcome o = run(1, "spin", 0);
  expect_hang(o, 1, {0});
}

TEST(Hang, ARankThatStopsItselfInTheBackwardPassIsNamedAndEnded) {
  for (const auto& [ranks, victim] : {std::pair(2, 0), {3, 0}, {4, 2}}) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks, victim " + std::to_string(victim));
    TempDir folder;
    const Outcome o = run(ranks, "stop", victim, folder.path());
    expect_hang(o, ranks, {victim});
    EXPECT_NE(o.summary.find("is stopped"), std::string::npos) << o.summary;
    std::ifstream file(folder / "hang.report.txt");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const std::size_t begin = text.find("nothing has moved");
    ASSERT_NE(begin, std::string::npos) << text;
    EXPECT_EQ(named_ranks(text.substr(begin, text.find('\n', begin) - begin)), std::set<int>{victim}) << text;
    EXPECT_EQ(count(text, "flight recorder of rank "), ranks) << text;
    EXPECT_EQ(count(text, "nothing has moved"), 1) << text;
  }
}

TEST(Hang, ARankThatLeavesACollectiveOutIsNamed) {
  for (const std::string fault : {"no_barrier", "no_gather"})
    for (const auto& [ranks, victim] : {std::pair(3, 0), {3, 2}, {4, 1}}) {
      SCOPED_TRACE(fault + ", " + std::to_string(ranks) + " ranks, victim " + std::to_string(victim));
      const Outcome o = run(ranks, fault, victim);
      expect_hang(o, ranks, {victim});
      EXPECT_NE(o.summary.find(fault == "no_barrier" ? "a barrier" : "an all-gather"), std::string::npos)
          << o.summary;
      EXPECT_NE(o.summary.find("a collective was left out"), std::string::npos) << o.summary;
    }
}

TEST(Hang, TheRankWhoseDeviceDoesNotComeToACollectiveIsNamed) {
  for (const auto& [ranks, victim] : {std::pair(2, 0), {3, 2}}) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks, victim " + std::to_string(victim));
    const Outcome o = run(ranks, "device", victim);
    expect_hang(o, ranks, {victim});
    EXPECT_NE(o.summary.find("in collective 1 on the device (bucket 2)"), std::string::npos) << o.summary;
    EXPECT_GT(o.result.seconds, 4 * timeout_s);
  }
}

TEST(Hang, ARankThatSpinsInItsOwnWorkAmongWaitingOnesIsNamed) {
  for (const auto& [ranks, victim] : {std::pair(2, 1), {3, 0}}) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks, victim " + std::to_string(victim));
    expect_hang(run(ranks, "works", victim), ranks, {victim});
  }
}

TEST(Hang, OfTwoRanksBothAreNamedWithWhereEachWaits) {
  for (const std::string fault : {"no_barrier", "no_gather"}) {
    SCOPED_TRACE(fault);
    const Outcome o = run(2, fault, 1);
    expect_hang(o, 2, {0, 1});
    EXPECT_NE(o.summary.find(fault == "no_barrier" ? "a barrier" : "an all-gather"), std::string::npos)
        << o.summary;
  }
}

TEST(Hang, ARankThatGoesToTheEndEarlyIsNamed) {
  const Outcome o = run(3, "ends", 1);
  expect_hang(o, 3, {1});
}

TEST(Hang, AnErrorOfARankKeepsItsOwnCode) {
  const Outcome o = run(3, "throws", 1);
  EXPECT_EQ(o.result.exit_code, 3) << o.result.describe();
  EXPECT_EQ(count(o.result.err, "nothing has moved"), 0) << o.result.err;
}

TEST(Hang, ASlowRankThatMovesOnIsNotOneNorOneThatSaves) {
  for (const std::string fault : {"slow", "saves"}) {
    const Outcome o = run(3, fault, 1);
    EXPECT_EQ(o.result.exit_code, 0) << o.result.describe();
    EXPECT_EQ(count(o.result.err, "nothing has moved"), 0) << o.result.err;
  }
}

}  // namespace
}  // namespace lockstep::test
