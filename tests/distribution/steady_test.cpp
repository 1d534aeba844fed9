// A steady step allocates nothing: malloc, aligned_alloc and mmap are counted process-wide, but for the few
// small blocks of each call of oneDNN (support/onednn_calls.cpp).

#include <gtest/gtest.h>

#include "support/process.h"
#include "support/temp_dir.h"

namespace lockstep::test {
namespace {

void expect_none(int ranks, const std::string& threads) {
  const TempDir run;
  const ProcessResult result = run_mpi(ranks, {STEADY_PROGRAM, threads, run.path()});
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  int told = 0;
  for (std::size_t at = result.out.find("allocations "); at != std::string::npos;
       at = result.out.find("allocations ", at + 1), ++told)
    EXPECT_EQ(result.out.substr(at, 14), "allocations 0 ") << result.out;
  EXPECT_EQ(told, ranks) << result.out;
}

TEST(SteadyStep, AllocatesNothingOnOneRank) {
  expect_none(1, "1");
  expect_none(1, "2");
}

TEST(SteadyStep, AllocatesNothingOnSeveralRanks) {
  expect_none(2, "1");
  expect_none(3, "2");
}

}  // namespace
}  // namespace lockstep::test
