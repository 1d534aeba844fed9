#include "support/malloc_count.h"

#include <cstdlib>
#include <functional>
#include <gtest/gtest.h>
#include <thread>

namespace lockstep::test {
namespace {

/// A block that the compiler cannot do without.
void take(std::size_t bytes) {
  void* volatile block = std::malloc(bytes);
  std::free(block);
}

std::size_t counted(const std::function<void()>& body) {
  const std::size_t before = malloc_count();
  body();
  return malloc_count() - before;
}

TEST(UncountedSmallBlocks, SmallBlocksOfTheThreadDoNotCountWhileOneLives) {
  if (!malloc_is_counted()) GTEST_SKIP() << "this build has a malloc of its own";
  EXPECT_EQ(counted([] { take(32); }), 1u);
  EXPECT_EQ(counted([] {
              const UncountedSmallBlocks scope;
              take(32);
              take(512);
            }),
            0u);
  EXPECT_EQ(counted([] { take(32); }), 1u) << "the scope has ended";
}

TEST(UncountedSmallBlocks, LargeManyAndAlignedBlocksCount) {
  if (!malloc_is_counted()) GTEST_SKIP() << "this build has a malloc of its own";
  EXPECT_EQ(counted([] {
              const UncountedSmallBlocks scope;
              take(513);
            }),
            1u);
  EXPECT_EQ(counted([] {
              const UncountedSmallBlocks scope;
              for (int i = 0; i < 70; ++i) take(32);
            }),
            6u);
  EXPECT_EQ(counted([] {
              const UncountedSmallBlocks scope;
              void* block = nullptr;
              ASSERT_EQ(posix_memalign(&block, 64, 64), 0);
              std::free(block);
            }),
            1u);
}

TEST(UncountedSmallBlocks, BlocksOfAnotherThreadCount) {
  if (!malloc_is_counted()) GTEST_SKIP() << "this build has a malloc of its own";
  const UncountedSmallBlocks scope;
  std::size_t found = 0;
  std::thread([&] { found = counted([] { take(32); }); }).join();
  EXPECT_EQ(found, 1u);
}

}  // namespace
}  // namespace lockstep::test
