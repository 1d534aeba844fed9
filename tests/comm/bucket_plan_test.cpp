#include "comm/sync/bucket_plan.h"

#include <algorithm>
#include <gtest/gtest.h>

#include "comm/sync/gradient_sync.h"
#include "comm/threads/thread_communicator.h"

namespace lockstep {
namespace {

TEST(BucketPlan, ChunksTileEveryBucketAtBlockEdges) {
  for (const std::vector<int>& groups : {std::vector<int>{1}, {2}, {5}, {2, 1}, {1, 3}, {1, 2, 3}, {8, 8}}) {
    for (const std::int64_t elements : {0, 1, 4096, 10007, 100000, 1000001}) {
      for (const std::int64_t bucket : {0, 1, 4096, 30000, 2000000}) {
        const Topology t = make_topology(0, groups);
        const BucketPlan plan(elements, bucket, t);
        std::int64_t at = 0;
        for (std::int64_t b = 0; b < plan.buckets(); ++b) {
          ASSERT_EQ(plan.bucket(b).begin, at);
          for (int position = 0; position < t.size; ++position) {
            const int owner = plan.owner_at(b, position);
            const Range chunk = plan.chunk(b, owner);
            ASSERT_EQ(chunk.begin, at);
            ASSERT_TRUE(chunk.begin % block_elements == 0 || chunk.size() == 0);
            for (int g = 0; g < t.groups(); ++g) {
              const int holder = plan.holder(b, owner, g);
              ASSERT_EQ(t.group_of[static_cast<std::size_t>(holder)], g);
              if (t.group_of[static_cast<std::size_t>(owner)] == g) {
                ASSERT_EQ(holder, owner);
              }
            }
            at = chunk.end;
          }
          ASSERT_EQ(plan.bucket(b).end, at);
        }
        ASSERT_EQ(at, elements);
        std::int64_t owned = 0;
        for (int r = 0; r < t.size; ++r) {
          std::int64_t last = -1;
          for (const Range& range : plan.shard(r)) {
            ASSERT_GT(range.size(), 0);
            ASSERT_GT(range.begin, last);
            last = range.end;
            owned += range.size();
          }
        }
        ASSERT_EQ(owned, elements);
      }
    }
  }
}

TEST(BucketPlan, BucketsAreOfTheSizeAskedFor) {
  const Topology t = make_topology(0, {2});
  EXPECT_EQ(BucketPlan(100000, 0, t).buckets(), 1);
  EXPECT_EQ(BucketPlan(100000, 4097, t).buckets(), 13);
  EXPECT_EQ(BucketPlan(100000, 4097, t).bucket(1), (Range{8192, 16384}));
  EXPECT_EQ(BucketPlan(0, 4096, t).buckets(), 0);
}

TEST(BucketPlan, ShardsAreEven) {
  // Buckets of 5 blocks for 3 ranks: without rotation one rank would get 1 of 5 blocks of each.
  const BucketPlan plan(3000 * block_elements, 5 * block_elements, make_topology(0, {3}));
  for (int r = 0; r < 3; ++r) {
    std::int64_t owned = 0;
    for (const Range& range : plan.shard(r)) owned += range.size();
    EXPECT_EQ(owned, 1000 * block_elements);
  }
}

TEST(BucketPlan, CarriersShareTheWork) {
  const Topology t = make_topology(0, {4, 4});
  const BucketPlan plan(8 * block_elements, 0, t);
  std::vector<int> carriers;
  for (int owner = 4; owner < 8; ++owner) carriers.push_back(plan.carrier(0, owner, 0));
  std::sort(carriers.begin(), carriers.end());
  EXPECT_EQ(carriers, (std::vector<int>{0, 1, 2, 3}));
}

TEST(BucketPlan, SlicesAndSubtreesCoverEverySliceOnce) {
  for (std::int64_t slices = 1; slices <= 40; ++slices) {
    for (int ranks = 1; ranks <= std::min<std::int64_t>(slices, 9); ++ranks) {
      std::int64_t at = 0;
      for (int r = 0; r < ranks; ++r) {
        ASSERT_GT(slices_of_rank(slices, r, ranks).size(), 0);
        for (const Node& node : subtrees_of_rank(slices, r, ranks)) {
          ASSERT_EQ(node.begin, at);
          at = node.end;
        }
        ASSERT_EQ(slices_of_rank(slices, r, ranks).end, at);
      }
      ASSERT_EQ(at, slices);
    }
  }
}

}  // namespace
}  // namespace lockstep
