#include "model/cpu/onednn/onednn_alloc.h"

#include <cstring>
#include <gtest/gtest.h>
#include <memory>
#include <thread>
#include <vector>

#include "support/malloc_count.h"

namespace lockstep::test {
namespace {

using cpu::SmallAllocations;

TEST(SmallAllocations, TakesNothingFromMallocWithinAScope) {
  if (!malloc_is_counted()) GTEST_SKIP() << "this build has a malloc of its own";
  {
    const SmallAllocations first;
    ::operator delete(::operator new(32));
  }
  const std::size_t before = malloc_count();
  for (int i = 0; i < 10'000; ++i) {
    const SmallAllocations pooled;
    void* a = ::operator new(120);
    void* b = ::operator new(32);
    ::operator delete(a);
    ::operator delete(b);
  }
  EXPECT_EQ(malloc_count(), before);
  ::operator delete(::operator new(32));
  EXPECT_EQ(malloc_count(), before + 1) << "outside a scope, malloc is asked";
}

TEST(SmallAllocations, LargeBlocksAndAFullPoolFallBackToMalloc) {
  std::vector<void*> blocks;
  blocks.reserve(1000);
  {
    const SmallAllocations pooled;
    for (int i = 0; i < 1000; ++i) {
      blocks.push_back(::operator new(i % 7 == 0 ? 100'000 : 100));
      std::memset(blocks.back(), i & 0xff, 100);
    }
  }
  for (int i = 0; i < 1000; ++i)
    for (int k = 0; k < 100; ++k)
      ASSERT_EQ(static_cast<unsigned char*>(blocks[static_cast<std::size_t>(i)])[k], i & 0xff)
          << "block " << i;
  for (void* block : blocks) ::operator delete(block);
}

TEST(SmallAllocations, ABlockMayOutliveItsScopeAndItsThread) {
  char* kept = nullptr;
  std::thread([&] {
    const SmallAllocations pooled;
    kept = static_cast<char*>(::operator new(64));
    std::memset(kept, 'k', 64);
  }).join();
  // Another thread may take over the pool; it must leave the block alone.
  std::thread([&] {
    for (int i = 0; i < 1000; ++i) {
      const SmallAllocations pooled;
      void* own = ::operator new(64);
      std::memset(own, 'o', 64);
      ::operator delete(own);
    }
  }).join();
  for (int k = 0; k < 64; ++k) ASSERT_EQ(kept[k], 'k');
  ::operator delete(kept);
}

TEST(SmallAllocations, BlocksThatStayTakeOnlyTheirOwnPlace) {
  if (!malloc_is_counted()) GTEST_SKIP() << "this build has a malloc of its own";
  std::thread([] {
    std::vector<void*> kept;
    kept.reserve(20);
    for (std::size_t i = 0; i < 20; ++i) {
      const SmallAllocations pooled;
      kept.push_back(::operator new(i % 4 == 0 ? 512 : 100));
      std::memset(kept.back(), static_cast<int>(i), 100);
    }
    const std::size_t before = malloc_count();
    for (int i = 0; i < 1000; ++i) {
      const SmallAllocations pooled;
      void* small = ::operator new(128);
      void* large = ::operator new(129);
      std::memset(small, 0xff, 128);
      std::memset(large, 0xff, 129);
      ::operator delete(small);
      ::operator delete(large);
    }
    EXPECT_EQ(malloc_count(), before);
    for (std::size_t i = 0; i < kept.size(); ++i) {
      for (std::size_t k = 0; k < 100; ++k) ASSERT_EQ(static_cast<unsigned char*>(kept[i])[k], i);
      ::operator delete(kept[i]);
    }
  }).join();
}

TEST(SmallAllocations, ManyThreadsAtOnce) {
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      for (int i = 0; i < 20'000; ++i) {
        const SmallAllocations pooled;
        auto a = std::make_unique<int>(t);
        auto b = std::make_unique<int>(t + 100);
        ASSERT_EQ(*a, t);
        ASSERT_EQ(*b, t + 100);
      }
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace lockstep::test
