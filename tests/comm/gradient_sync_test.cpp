#include "comm/sync/gradient_sync.h"

#include <atomic>
#include <deque>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <mutex>
#include <numeric>
#include <thread>

#include "comm/sync_check.h"
#include "comm/threads/thread_communicator.h"
#include "core/error.h"

namespace lockstep {
namespace {

using test::SyncCase;

/// What is wrong on any rank, or an empty text.
std::string run_case(const std::vector<int>& groups, const SyncCase& c) {
  std::mutex mutex;
  std::string wrong;
  run_ranks(std::accumulate(groups.begin(), groups.end(), 0), groups, [&](Communicator& comm) {
    const std::string mine = test::check_sync(comm, c);
    const std::lock_guard lock(mutex);
    if (wrong.empty() && !mine.empty()) wrong = "rank " + std::to_string(comm.rank()) + ": " + mine;
  });
  return wrong;
}

std::string name_of_groups(const std::vector<int>& groups) {
  return fmt::format("{}", fmt::join(groups, "_"));
}

class OrderedSum : public testing::TestWithParam<std::vector<int>> {};

TEST_P(OrderedSum, SameBitsAsTheDirectTreeAtAnyPlacement) {
  const std::vector<int>& groups = GetParam();
  const int ranks = std::accumulate(groups.begin(), groups.end(), 0);
  int number = 0;
  for (const std::int64_t slices : {std::int64_t{ranks}, std::int64_t{7}, std::int64_t{12}}) {
    if (slices < ranks) continue;
    for (const std::int64_t bucket : {0, 4096, 12000}) {
      for (const bool sharded : {false, true}) {
        SyncCase c;
        c.elements = 30011;
        c.slices = slices;
        c.bucket_elements = bucket;
        c.sharded = sharded;
        c.overlap = number % 3 != 0;
        c.lanes = 1 + number % 3;
        c.steps = 2;
        ++number;
        SCOPED_TRACE(c.text());
        EXPECT_EQ(run_case(groups, c), "");
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Groups, OrderedSum,
    testing::ValuesIn(std::vector<std::vector<int>>{
        {1}, {2}, {3}, {4}, {6}, {1, 1}, {1, 1, 1, 1}, {2, 1}, {1, 3}, {2, 2}, {1, 2, 3}, {4, 2}}),
    [](const auto& info) { return name_of_groups(info.param); });

TEST(GradientSync, OverlapChangesNoBit) {
  for (const std::vector<int>& groups : {std::vector<int>{3}, std::vector<int>{2, 1}}) {
    for (const bool overlap : {false, true}) {
      SyncCase c;
      c.slices = 5;
      c.overlap = overlap;
      c.bucket_elements = 4096;
      EXPECT_EQ(run_case(groups, c), "");
    }
  }
}

TEST(GradientSync, SizesAtTheEdges) {
  for (const std::int64_t elements : {0, 1, 4095, 4096, 4097, 8192, 70001}) {
    for (const bool sharded : {false, true}) {
      for (const std::vector<int>& groups :
           {std::vector<int>{1}, std::vector<int>{3}, std::vector<int>{1, 2}}) {
        SyncCase c;
        c.elements = elements;
        c.slices = 5;
        c.sharded = sharded;
        c.bucket_elements = 5000;
        c.steps = 2;
        SCOPED_TRACE(c.text() + " groups " + name_of_groups(groups));
        EXPECT_EQ(run_case(groups, c), "");
      }
    }
  }
}

TEST(GradientSync, AWrongSignOfOneGradientIsSeen) {
  for (const std::vector<int>& groups : {std::vector<int>{2}, std::vector<int>{1, 1}}) {
    SyncCase c;
    c.slices = 6;
    c.flip = 4;
    c.flip_at = test::loudest_element(c, c.flip);
    EXPECT_NE(run_case(groups, c).find(fmt::format("step 1: total {} is", c.flip_at)), std::string::npos);
  }
}

TEST(GradientSync, FastAgreesWithinATolerance) {
  for (const std::vector<int>& groups : {std::vector<int>{1}, std::vector<int>{3}, std::vector<int>{2, 2}}) {
    for (const bool sharded : {false, true}) {
      for (const bool overlap : {false, true}) {
        SyncCase c;
        c.slices = 7;
        c.reduction = Reduction::fast;
        c.bucket_elements = 4096;
        c.sharded = sharded;
        c.overlap = overlap;
        EXPECT_EQ(run_case(groups, c), "");
      }
    }
  }
}

TEST(GradientSync, MoreRanksThanSlicesIsOneClearError) {
  std::atomic<int> spoken{0};
  std::atomic<int> silent{0};
  run_ranks(3, {}, [&](Communicator& comm) {
    GradientSyncOptions options;
    options.slices = 2;
    try {
      GradientSync::create(comm, 100, options);
    } catch (const ConfigError& e) {
      EXPECT_NE(std::string(e.what()).find("3 ranks cannot share 2 slices"), std::string::npos);
      ++spoken;
    } catch (const SilentError& e) {
      EXPECT_EQ(e.code(), ExitCode::input);
      ++silent;
    }
  });
  EXPECT_EQ(spoken, 1);
  EXPECT_EQ(silent, 2);
}

TEST(GradientSync, MisuseIsADefectThatIsNamed) {
  run_ranks(1, {}, [&](Communicator& comm) {
    GradientSyncOptions options;
    options.bucket_elements = 4096;
    auto sync = GradientSync::create(comm, 10000, options);
    EXPECT_THROW(sync->ready({0, 1}), InternalError);
    EXPECT_THROW(sync->finish(), InternalError);
    sync->begin_step(1);
    EXPECT_THROW(sync->ready({9999, 10001}), InternalError);
    sync->ready({0, 5000});
    EXPECT_THROW(sync->finish(), InternalError);
    EXPECT_THROW(sync->ready({0, 4096}), InternalError);
  });
}

/// Every piece of summing is recorded, and the pieces of one bucket over all ranks are just its blocks.
TEST(GradientSync, TimelineShowsEveryBucketReducedOnce) {
  constexpr int ranks = 3;
  constexpr std::int64_t blocks_per_bucket = 50;
  SyncCase c;
  c.elements = 130 * block_elements + 17;
  c.slices = 3;
  c.bucket_elements = blocks_per_bucket * block_elements;
  c.steps = 1;
  std::deque<Timeline> timelines;
  for (int r = 0; r < ranks; ++r) timelines.emplace_back(1000);
  run_ranks(ranks, {}, [&](Communicator& comm) {
    EXPECT_EQ(test::check_sync(comm, c, &timelines[static_cast<std::size_t>(comm.rank())]), "");
  });
  std::vector<int> pieces(3, 0);
  std::vector<int> exchanges(3, 0);
  for (const Timeline& timeline : timelines) {
    std::int64_t last_end = 0;
    for (const TimelineEvent& e : timeline.events()) {
      if (e.kind == EventKind::reduce) {
        ++pieces[static_cast<std::size_t>(e.b)];
        EXPECT_GE(e.begin_ns, last_end);
        last_end = e.end_ns;
      }
      if (e.kind == EventKind::exchange) ++exchanges[static_cast<std::size_t>(e.b)];
      EXPECT_EQ(e.a, 1);
      EXPECT_LE(e.begin_ns, e.end_ns);
    }
  }
  // Chunks of 16, 17 and 17 of 50 blocks in pieces of at most 16; then of 10, 10 and 11 of 31 blocks.
  EXPECT_EQ(pieces, (std::vector<int>{5, 5, 3}));
  EXPECT_EQ(exchanges, (std::vector<int>{3, 3, 3}));
}

TEST(GradientSync, BucketsFollowTheirSize) {
  run_ranks(2, {}, [](Communicator& comm) {
    GradientSyncOptions options;
    options.slices = 2;
    options.bucket_elements = 5000;
    auto sync = GradientSync::create(comm, 20000, options);
    ASSERT_EQ(sync->buckets(), 3);
    EXPECT_EQ(sync->bucket(0), (Range{0, 8192}));
    EXPECT_EQ(sync->bucket(2), (Range{16384, 20000}));
  });
}

TEST(GradientSync, TrafficOfTwoWholeSubtreesIsThatOfARing) {
  run_ranks(2, {1, 1}, [](Communicator& comm) {
    GradientSyncOptions options;
    options.slices = 2;
    for (const bool sharded : {false, true}) {
      options.sharded = sharded;
      const auto traffic = GradientSync::create(comm, 8192, options)->traffic();
      EXPECT_EQ(traffic.subtrees, 1);
      EXPECT_EQ(traffic.sent_bytes, 8192 * 4);  // half of it as a subtree sum, half as totals or parameters
      EXPECT_EQ(traffic.window_bytes, 0);
    }
  });
  run_ranks(2, {2}, [](Communicator& comm) {
    GradientSyncOptions options;
    options.slices = 3;
    options.sharded = false;
    const auto traffic = GradientSync::create(comm, 8192, options)->traffic();
    EXPECT_EQ(traffic.subtrees, 2);
    EXPECT_EQ(traffic.sent_bytes, 0);
    // The peer's slots of the own half, and the peer's half of the totals.
    EXPECT_EQ(traffic.window_bytes, 4096 * 4 * (comm.rank() == 0 ? 2 : 1) + 4096 * 4);
  });
}

/// Other lanes call progress() and say ranges ready while the first computes.
TEST(GradientSync, LanesSideBySide) {
  constexpr std::int64_t elements = 100000;
  run_ranks(2, {}, [&](Communicator& comm) {
    GradientSyncOptions options;
    options.slices = 2;
    options.sharded = false;
    options.bucket_elements = 8192;
    auto sync = GradientSync::create(comm, elements, options);
    for (int step = 0; step < 3; ++step) {
      sync->begin_step(step);
      std::atomic<std::int64_t> next{0};
      const auto lane = [&] {
        for (;;) {
          const std::int64_t begin = next.fetch_add(1000);
          if (begin >= elements) return;
          const Range range{begin, std::min(begin + 1000, elements)};
          for (std::int64_t i = range.begin; i < range.end; ++i) {
            sync->slot(0)[static_cast<std::size_t>(i)] = static_cast<float>(i % 1000 + step + comm.rank());
          }
          sync->ready(range);
          sync->progress();
        }
      };
      std::thread helper(lane);
      lane();
      helper.join();
      sync->finish();
      for (const TotalView& view : sync->totals()) {
        for (std::int64_t i = view.range.begin; i < view.range.end; ++i) {
          ASSERT_EQ(view.data[i - view.range.begin], static_cast<float>(2 * (i % 1000) + 2 * step + 1));
        }
      }
    }
  });
}

TEST(GradientSync, AFailedPeerEndsEveryWait) {
  std::atomic<int> ended{0};
  const auto body = [&](Communicator& comm) {
    try {
      GradientSyncOptions options;
      options.slices = 3;
      auto sync = GradientSync::create(comm, 10000, options);
      if (comm.rank() == 1) throw InputError("this rank's data are gone");
      sync->begin_step(1);
      sync->ready({0, 10000});
      sync->finish();
      ADD_FAILURE() << "a step was finished without rank 1";
    } catch (const CommError&) {
      ++ended;
      throw;
    }
  };
  EXPECT_THROW(run_ranks(3, {2, 1}, body), InputError);
  EXPECT_EQ(ended, 2);
}

}  // namespace
}  // namespace lockstep
