#include "device/lane_pool.h"

#include <atomic>
#include <barrier>
#include <chrono>
#include <cmath>
#include <ctime>
#include <gtest/gtest.h>
#include <limits>
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "device/cpu_info.h"
#include "support/malloc_count.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

class LanePoolOf : public testing::TestWithParam<int> {};

TEST_P(LanePoolOf, RunsEveryLaneOnceEachTime) {
  const int lanes = GetParam();
  LanePool pool(lanes);
  EXPECT_EQ(pool.size(), lanes);
  std::vector<std::atomic<int>> calls(static_cast<std::size_t>(lanes));
  std::vector<std::thread::id> threads(static_cast<std::size_t>(lanes));
  for (int round = 0; round < 100; ++round) {
    pool.run([&](int lane) {
      ++calls[static_cast<std::size_t>(lane)];
      threads[static_cast<std::size_t>(lane)] = std::this_thread::get_id();
    });
    for (const auto& c : calls) ASSERT_EQ(c, round + 1);
  }
  EXPECT_EQ(threads[0], std::this_thread::get_id());
  for (std::size_t i = 0; i < threads.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(threads[i], threads[j]);
  }
}

INSTANTIATE_TEST_SUITE_P(Lanes, LanePoolOf, testing::Values(1, 2, 3, 4, 7));

TEST(LanePoolTest, WhatLanesWroteIsVisibleAfterwards) {
  LanePool pool(3);
  std::vector<std::int64_t> sums(3, 0);  // plain memory: run() alone orders the accesses
  constexpr int rounds = 10'000;
  for (int round = 1; round <= rounds; ++round) {
    pool.run([&](int lane) { sums[static_cast<std::size_t>(lane)] += round + sums[0] * 0; });
    ASSERT_EQ(sums[0], std::int64_t{round} * (round + 1) / 2);
    ASSERT_EQ(sums[1], sums[0]);
    ASSERT_EQ(sums[2], sums[0]);
  }
}

TEST(LanePoolTest, ThrowsTheFirstExceptionInTheOrderOfLanesAndGoesOn) {
  LanePool pool(4);
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> ended{0};
    try {
      pool.run([&](int lane) {
        ++ended;
        if (lane >= 1) {
          if (lane == 1) std::this_thread::sleep_for(200us);  // the first in order, not in time
          throw InputError("lane " + std::to_string(lane));
        }
      });
      FAIL() << "nothing was thrown";
    } catch (const InputError& e) {
      EXPECT_STREQ(e.what(), "lane 1");
    }
    EXPECT_EQ(ended, 4);
    std::atomic<int> calls{0};
    pool.run([&](int) { ++calls; });
    ASSERT_EQ(calls, 4);
  }
  EXPECT_THROW(pool.run([](int lane) {
    if (lane == 0) throw ConfigError("mine");
  }),
               ConfigError);
}

TEST(LanePoolTest, RefusesToRunInsideItself) {
  LanePool pool(2);
  EXPECT_THROW(pool.run([&](int) { pool.run([](int) {}); }), InternalError);
  std::atomic<int> calls{0};
  pool.run([&](int) { ++calls; });
  EXPECT_EQ(calls, 2);
}

TEST(LanePoolTest, RefusesNoLanesAndTheWrongNumberOfCpus) {
  EXPECT_THROW(LanePool(0), InternalError);
  EXPECT_THROW(LanePool(2, {0}), InternalError);
}

TEST(LanePoolTest, RunAllocatesNothing) {
  if (!test::malloc_is_counted()) GTEST_SKIP() << "a sanitizer replaces malloc";
  LanePool pool(3);
  std::barrier barrier(3);
  const std::size_t counted = test::malloc_count();
  delete new int;  // the counter counts
  ASSERT_GE(test::malloc_count(), counted);
  std::atomic<int> calls{0};
  const std::size_t before = test::malloc_count();
  for (int round = 0; round < 1000; ++round) {
    pool.run([&](int) {
      barrier.arrive_and_wait();
      ++calls;
    });
    if (round % 100 == 0) std::this_thread::sleep_for(4ms);  // the lanes fall asleep and are woken
  }
  EXPECT_EQ(test::malloc_count(), before);
  EXPECT_EQ(calls, 3000);
}

TEST(LanePoolTest, TheCounterOfAllocationsCounts) {
  if (!test::malloc_is_counted()) GTEST_SKIP() << "a sanitizer replaces malloc";
  const std::size_t before = test::malloc_count();
  std::thread([] { std::vector<char>(100'000).at(5) = 1; }).join();
  EXPECT_GT(test::malloc_count(), before);
}

TEST(LanePoolTest, EveryLaneRunsLibrariesOnOneThread) {
  omp_set_num_threads(4);
  LanePool pool(3);
  std::vector<int> threads(3, 0);
  pool.run([&](int lane) { threads[static_cast<std::size_t>(lane)] = omp_get_max_threads(); });
  EXPECT_EQ(threads, (std::vector<int>{1, 1, 1}));
  // Another caller becomes lane 0 and is prepared as well.
  std::thread([&] {
    omp_set_num_threads(4);
    pool.run([&](int lane) { threads[static_cast<std::size_t>(lane)] = omp_get_max_threads(); });
  }).join();
  EXPECT_EQ(threads, (std::vector<int>{1, 1, 1}));
}

#if defined(__x86_64__)
TEST(LanePoolTest, DenormalsAreKeptInEveryLane) {
  const unsigned before = _mm_getcsr();
  const unsigned flush = before | 1u << 15 | 1u << 6;
  const volatile float smallest_normal = std::numeric_limits<float>::min();
  const auto half = [&] { return smallest_normal * 0.5f; };
  _mm_setcsr(flush);
  ASSERT_EQ(half(), 0.0f) << "the test itself: with FTZ a denormal is flushed";
  {
    LanePool pool(3);  // the new threads inherit the mode
    std::vector<float> result(3, 0.0f);
    const auto body = [&](int lane) { result[static_cast<std::size_t>(lane)] = half(); };
    pool.run(body);
    for (const float r : result) EXPECT_GT(r, 0.0f);
    // A library that is loaded later may set the mode again, also in a lane.
    pool.run([&](int) { _mm_setcsr(flush); });
    pool.run(body);
    for (const float r : result) EXPECT_GT(r, 0.0f);
  }
  _mm_setcsr(flush);
  prepare_compute_thread();
  EXPECT_GT(half(), 0.0f);
  _mm_setcsr(before);
}
#endif

TEST(LanePoolTest, PinsLanesAndNamesThemAndGivesTheCallerItsCpusBack) {
  const std::vector<int> allowed = allowed_cpus();
  std::vector<int> cpus = {allowed.back()};
  if (allowed.size() > 1) cpus.push_back(allowed.front());
  {
    LanePool pool(static_cast<int>(cpus.size()), cpus);
    std::vector<int> ran_on(cpus.size(), -1);
    std::vector<std::vector<int>> masks(cpus.size());
    std::vector<std::string> names(cpus.size());
    pool.run([&](int lane) {
      const auto i = static_cast<std::size_t>(lane);
      ran_on[i] = sched_getcpu();
      masks[i] = allowed_cpus();
      char name[16] = {};
      pthread_getname_np(pthread_self(), name, sizeof name);
      names[i] = name;
    });
    EXPECT_EQ(ran_on, cpus);
    for (std::size_t i = 0; i < cpus.size(); ++i) EXPECT_EQ(masks[i], std::vector<int>{cpus[i]});
    if (cpus.size() > 1) {
      EXPECT_EQ(names[1], "lane-1");
    }
  }
  EXPECT_EQ(allowed_cpus(), allowed);
}

TEST(LanePoolTest, ACpuThatDoesNotExistIsAnErrorAndNoHang) {
  const std::vector<int> allowed = allowed_cpus();
  EXPECT_THROW(LanePool(2, {allowed[0], 100'000}), DeviceError);
  EXPECT_THROW(LanePool(2, {100'000, allowed[0]}), DeviceError);
  EXPECT_EQ(allowed_cpus(), allowed);
}

double process_cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

TEST(LanePoolTest, IdleLanesBurnNoCpu) {
  LanePool pool(4);
  pool.run([](int) {});
  std::this_thread::sleep_for(50ms);
  const double before = process_cpu_seconds();
  std::this_thread::sleep_for(300ms);
  EXPECT_LT(process_cpu_seconds() - before, 0.03);
  std::atomic<int> calls{0};
  pool.run([&](int) { ++calls; });
  EXPECT_EQ(calls, 4);
}

TEST(LanePoolTest, ACallerThatWaitsLongBurnsNoCpu) {
  LanePool pool(2);
  const double before = process_cpu_seconds();
  pool.run([](int lane) {
    if (lane == 1) std::this_thread::sleep_for(300ms);
  });
  EXPECT_LT(process_cpu_seconds() - before, 0.1);
}

TEST(LanePoolTest, MorePoolsAndLanesThanCpusMakeProgress) {
  constexpr int ranks = 4, lanes = 3, rounds = 300;
  std::atomic<int> calls{0};
  const Clock::time_point start = Clock::now();
  std::vector<std::thread> callers;
  callers.reserve(ranks);
  for (int r = 0; r < ranks; ++r) {
    callers.emplace_back([&calls] {
      LanePool pool(lanes);
      std::barrier barrier(lanes);
      for (int round = 0; round < rounds; ++round) {
        pool.run([&](int) {
          barrier.arrive_and_wait();
          ++calls;
          barrier.arrive_and_wait();
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(calls, ranks * lanes * rounds);
  // Twelve lanes on two busy cpus: some 25 ms a round would mean that each waits for whole time slices.
  EXPECT_LT(Clock::now() - start, 8s);
}

TEST(LanePoolTest, ManyPoolsComeAndGo) {
  for (int i = 0; i < 200; ++i) {
    LanePool pool(1 + i % 4);
    if (i % 3 == 0) continue;  // ended without a run
    std::atomic<int> calls{0};
    pool.run([&](int) { ++calls; });
    ASSERT_EQ(calls, pool.size());
  }
}

TEST(Relax, WaitsOfAnyLengthEnd) {
  std::atomic<bool> go{false};
  std::thread waker([&] {
    std::this_thread::sleep_for(30ms);
    go.store(true, std::memory_order_release);
  });
  unsigned spins = 0;
  const double before = process_cpu_seconds();
  while (!go.load(std::memory_order_acquire)) relax(spins);
  EXPECT_LT(process_cpu_seconds() - before, 0.025);  // it slept for most of the time
  waker.join();
  EXPECT_GT(spins, 0u);
}

}  // namespace
}  // namespace lockstep
