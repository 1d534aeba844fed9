#include "comm/sync/collective_plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <mutex>

#include "comm/sync/bucket_plan.h"
#include "comm/sync/tree_kernel.h"
#include "comm/threads/thread_communicator.h"
#include "core/numerics/finite.h"
#include "core/numerics/philox.h"
#include "device/lane_pool.h"

namespace lockstep {
namespace {

using Kind = CollectiveOp::Kind;

CollectivePlanOptions options_of(std::int64_t elements, int rank, int ranks, std::int64_t slices,
                                 std::int64_t bucket, bool sharded, Reduction reduction, bool marks,
                                 bool block_values = false) {
  CollectivePlanOptions o;
  o.elements = elements;
  o.rank = rank;
  o.ranks = ranks;
  o.sync.slices = slices;
  o.sync.bucket_elements = bucket;
  o.sync.sharded = sharded;
  o.sync.reduction = reduction;
  o.sync.finite_marks = marks;
  o.sync.block_values = block_values;
  return o;
}

/// A communicator that keeps a record of every call, and carries it out on host memory through messages
/// between threads, so that a call that no peer answers is found as well as a wrong sum.
class RecordingBackend final : public CollectiveBackend {
 public:
  explicit RecordingBackend(Communicator& comm) : comm_(comm) {}

  void enter(std::int64_t bucket) override {
    EXPECT_FALSE(inside_);
    inside_ = true;
    bucket_ = bucket;
  }
  void leave(std::int64_t bucket) override {
    EXPECT_TRUE(inside_);
    EXPECT_EQ(bucket, bucket_);
    EXPECT_TRUE(under_way_.empty());
    inside_ = false;
  }
  void group_begin() override {
    EXPECT_TRUE(inside_) << "a collective outside enter and leave";
    EXPECT_FALSE(group_);
    group_ = true;
    record.push_back({"group", 0, -1});
  }
  void group_end() override {
    EXPECT_TRUE(group_);
    group_ = false;
    for (const auto& action : deferred_) action();
    deferred_.clear();
    unsigned spins = 0;
    while (!under_way_.empty()) {
      if (under_way_.back()->test()) {
        under_way_.pop_back();
      } else {
        relax(spins);
      }
    }
    record.push_back({"group end", 0, -1});
  }
  void send(const float* data, std::size_t count, int to) override {
    EXPECT_TRUE(group_);
    EXPECT_NE(to, comm_.rank());
    record.push_back({"send", count, to});
    under_way_.push_back(comm_.send(std::as_bytes(std::span(data, count)), to, 1));
  }
  void receive(float* data, std::size_t count, int from) override {
    EXPECT_TRUE(group_);
    record.push_back({"receive", count, from});
    under_way_.push_back(comm_.receive(std::as_writable_bytes(std::span(data, count)), from, 1));
  }
  void all_gather(float* data, std::size_t count) override { gather(data, count, "gather floats"); }
  void all_gather(double* data, std::size_t count) override { gather(data, count, "gather doubles"); }
  void all_reduce_sum(float* data, std::size_t count) override {
    EXPECT_TRUE(inside_);
    record.push_back({"all-reduce", count, -1});
    const auto request = comm_.start_all_reduce_sum({data, count});
    unsigned spins = 0;
    while (!request->test()) relax(spins);
  }
  void complete(const CompletionOperands& from, const MergeProgram& program, std::int64_t count,
                float* out) override {
    EXPECT_FALSE(inside_);
    for (std::int64_t i = 0; i < count; ++i)
      out[i] = complete_element<40, float>(from, program.merges.data(),
                                           static_cast<std::int32_t>(program.merges.size()), i,
                                           [](const float* at) { return *at; });
  }
  void mark_finite(const float* data, std::int64_t count, double* marks) override {
    for (std::int64_t at = 0; at < count; at += block_elements)
      marks[at / block_elements] = finite_mark(
          all_finite({data + at, static_cast<std::size_t>(std::min(block_elements, count - at))}));
  }

  struct Call {
    std::string what;
    std::size_t count;
    int peer;
    friend bool operator==(const Call&, const Call&) = default;
  };
  std::vector<Call> record;

 private:
  template <class T>
  void gather(T* data, std::size_t count, const char* what) {
    EXPECT_TRUE(inside_);
    record.push_back({what, count, -1});
    const auto run = [this, data, count] {
      const std::vector<T> mine(data + count * static_cast<std::size_t>(comm_.rank()),
                                data + count * static_cast<std::size_t>(comm_.rank() + 1));
      comm_.all_gather(
          std::as_bytes(std::span(mine)),
          std::as_writable_bytes(std::span(data, count * static_cast<std::size_t>(comm_.size()))));
    };
    if (group_) {
      deferred_.push_back(run);
    } else {
      run();
    }
  }

  Communicator& comm_;
  bool inside_ = false;
  bool group_ = false;
  std::int64_t bucket_ = -1;
  std::vector<std::unique_ptr<Request>> under_way_;
  std::vector<std::function<void()>> deferred_;
};

/// The gradient of slice `slice` at element `i`: of very different sizes, so that the order of a sum shows.
float gradient(std::int64_t slice, std::int64_t i) {
  const PhiloxBlock b =
      philox4x32({17, 4}, static_cast<std::uint32_t>(slice), static_cast<std::uint32_t>(i), 0, 0);
  return (uniform01(b.v[0]) - 0.5f) * static_cast<float>(1 << (b.v[1] % 20));
}

float reference(std::int64_t slices, std::int64_t i) {
  std::vector<float> values;
  for (std::int64_t s = 0; s < slices; ++s) values.push_back(gradient(s, i));
  return tree_sum(values.data(), slices, [](float a, float b) { return a + b; });
}

struct Case {
  std::int64_t elements, slices, bucket;
  int ranks;
  bool sharded, marks;
  Reduction reduction;
};

/// With marks, this element of the first slice is infinite: its block alone is to be marked. Negative: none.
std::int64_t spoilt_element(const Case& c) {
  return c.marks && c.reduction == Reduction::ordered ? c.elements / 2 : -block_elements;
}

struct RankResult {
  std::vector<RecordingBackend::Call> record;
  std::vector<float> slot;
  std::vector<float> parameters;
  std::vector<double> marks;
  std::vector<double> block_values;
};

/// Runs a step of the plan on threads; what every rank is left with.
std::vector<RankResult> run(const Case& c) {
  std::vector<RankResult> results(static_cast<std::size_t>(c.ranks));
  run_ranks(c.ranks, {}, [&](Communicator& comm) {
    const CollectivePlan plan(options_of(c.elements, comm.rank(), c.ranks, c.slices, c.bucket, c.sharded,
                                         c.reduction, c.marks, true));
    const auto padded = static_cast<std::size_t>(plan.buckets.padded_elements());
    std::vector<float> slots(padded * plan.subtrees.size());
    std::vector<float> received(static_cast<std::size_t>(plan.received_elements));
    std::vector<float> parameters(padded, -1.0f);
    std::vector<double> marks(static_cast<std::size_t>(plan.marked_blocks), -1.0);
    std::vector<double> values(static_cast<std::size_t>(plan.value_blocks), -1.0);
    for (std::size_t k = 0; k < plan.subtrees.size(); ++k) {
      const Node node = plan.subtrees[k];
      for (std::int64_t i = 0; i < c.elements; ++i) {
        std::vector<float> values;
        for (std::int64_t s = node.begin; s < node.end; ++s) values.push_back(gradient(s, i));
        slots[k * padded + static_cast<std::size_t>(i)] =
            node.begin == 0 && i == spoilt_element(c)
                ? INFINITY
                : tree_sum(values.data(), node.size(), [](float a, float b) { return a + b; });
      }
    }
    RecordingBackend backend(comm);
    const CollectiveBuffers buffers{slots.data(),    static_cast<std::int64_t>(padded),
                                    received.data(), parameters.data(),
                                    marks.data(),    values.data()};
    for (const auto& ops : plan.gradients) run_collectives(ops, plan, buffers, backend);
    run_collectives(plan.finish, plan, buffers, backend);
    std::vector<Range> shard = plan.buckets.shard(comm.rank());
    if (!c.sharded) shard = {{0, c.elements}};
    for (const Range& range : shard)
      for (std::int64_t e = range.begin; e < range.end; e += block_elements)
        values[static_cast<std::size_t>(e / block_elements)] = static_cast<double>(e / block_elements) + 0.5;
    run_collectives(plan.block_values, plan, buffers, backend);
    for (const Range& range : plan.buckets.shard(comm.rank()))
      for (std::int64_t i = range.begin; i < range.end; ++i)
        parameters[static_cast<std::size_t>(i)] = slots[static_cast<std::size_t>(i)] * 0.5f;
    run_collectives(plan.parameters, plan, buffers, backend);
    slots.resize(padded);
    results[static_cast<std::size_t>(comm.rank())] = {backend.record, slots, parameters, marks, values};
  });
  return results;
}

/// Every rank's calls, with what differs from rank to rank taken out: sends and receives of a group become
/// one entry.
std::vector<std::string> outline(const std::vector<RecordingBackend::Call>& record) {
  std::vector<std::string> lines;
  for (const RecordingBackend::Call& call : record) {
    if (call.what == "send" || call.what == "receive") {
      if (lines.back() != "messages") lines.push_back("messages");
    } else {
      lines.push_back(call.what + " " + std::to_string(call.count));
    }
  }
  return lines;
}

/// Between every two ranks, group by group: what one sends is what the other receives, in the same order.
void expect_messages_match(const std::vector<RankResult>& results) {
  // (group, from, to) -> counts in order
  std::map<std::tuple<int, int, int>, std::vector<std::size_t>> sent, received;
  for (int r = 0; r < static_cast<int>(results.size()); ++r) {
    int group = 0;
    for (const auto& call : results[static_cast<std::size_t>(r)].record) {
      if (call.what == "group") ++group;
      if (call.what == "send") sent[{group, r, call.peer}].push_back(call.count);
      if (call.what == "receive") received[{group, call.peer, r}].push_back(call.count);
    }
  }
  EXPECT_EQ(sent, received);
}

class CollectivePlanCases : public testing::TestWithParam<Case> {};

TEST_P(CollectivePlanCases, RanksIssueTheSameCollectivesAndGetTheCanonicalSum) {
  const Case& c = GetParam();
  const std::vector<RankResult> results = run(c);
  expect_messages_match(results);
  std::vector<float> expected;
  for (std::int64_t i = 0; i < c.elements; ++i)
    expected.push_back(i == spoilt_element(c) ? INFINITY : reference(c.slices, i));
  for (int r = 0; r < c.ranks; ++r) {
    const RankResult& mine = results[static_cast<std::size_t>(r)];
    EXPECT_EQ(outline(mine.record), outline(results[0].record)) << "rank " << r;
    const CollectivePlan plan(
        options_of(c.elements, r, c.ranks, c.slices, c.bucket, c.sharded, c.reduction, c.marks));
    std::vector<Range> shard = plan.buckets.shard(r);
    if (!c.sharded) shard = {{0, c.elements}};
    for (const Range& range : shard) {
      for (std::int64_t i = range.begin; i < range.end; ++i) {
        const float got = mine.slot[static_cast<std::size_t>(i)];
        const float want = expected[static_cast<std::size_t>(i)];
        if (c.reduction == Reduction::ordered) {
          ASSERT_EQ(std::memcmp(&got, &want, sizeof got), 0) << "rank " << r << " element " << i;
        } else {
          ASSERT_NEAR(got, want, 1e-3 * static_cast<double>(1 << 20)) << "rank " << r << " element " << i;
        }
      }
    }
    for (std::int64_t b = 0; b * block_elements < c.elements; ++b) {
      const auto block = static_cast<std::size_t>(b);
      EXPECT_EQ(mine.block_values[block], static_cast<double>(b) + 0.5) << "rank " << r << " block " << b;
      if (c.marks) {
        const double mark = mine.marks[block];
        EXPECT_TRUE(b == spoilt_element(c) / block_elements ? std::isnan(mark) : mark == 0) << b;
      }
    }
    EXPECT_TRUE(!c.sharded || c.ranks == 1 || mine.parameters == results[0].parameters) << "rank " << r;
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int ranks : {1, 2, 3, 4, 7})
    for (const std::int64_t slices : {7, 8, 12})
      for (const std::int64_t bucket : {std::int64_t{0}, std::int64_t{1}, std::int64_t{20000}})
        for (const bool sharded : {false, true})
          all.push_back({ranks == 4 ? 4096 * 9 : 33000, slices, bucket, ranks, sharded,
                         sharded == (ranks % 2 == 0), Reduction::ordered});
  for (const int ranks : {1, 2, 3})
    for (const bool sharded : {false, true})
      all.push_back({30000, 7, 9000, ranks, sharded, true, Reduction::fast});
  all.push_back({1, 3, 0, 3, true, true, Reduction::ordered});
  all.push_back({16, 64, 0, 5, false, false, Reduction::ordered});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Cases, CollectivePlanCases, testing::ValuesIn(cases()));

TEST(CollectivePlan, TheOrderOfCollectivesDoesNotDependOnTheRankForAnyBucketSize) {
  // Property over many drawn cases, without running them: the plans of all ranks have one outline.
  for (std::uint32_t draw = 0; draw < 300; ++draw) {
    const PhiloxBlock b = philox4x32({5, 6}, draw, 0, 0, 0);
    const int ranks = 1 + static_cast<int>(b.v[0] % 16);
    const std::int64_t slices = ranks + b.v[1] % 40;
    const std::int64_t elements = b.v[2] % 400000;
    const std::int64_t bucket = b.v[3] % 150000;
    const bool sharded = draw % 2 == 0;
    const Reduction reduction = draw % 5 == 0 ? Reduction::fast : Reduction::ordered;
    std::vector<std::string> first;
    // (group, from, to) -> counts
    std::map<std::tuple<int, int, int>, std::vector<std::int64_t>> sent, received;
    std::vector<int> owners(static_cast<std::size_t>(elements), 0);
    for (int r = 0; r < ranks; ++r) {
      const CollectivePlan plan(
          options_of(elements, r, ranks, slices, bucket, sharded, reduction, draw % 3 == 0, draw % 4 < 2));
      std::vector<std::string> lines;
      int group = 0;
      const auto walk = [&](const std::vector<CollectiveOp>& ops) {
        for (const CollectiveOp& op : ops) {
          if (op.kind == Kind::send) {
            sent[{group, r, op.peer}].push_back(op.count);
            ASSERT_LE(op.offset + op.count, plan.buckets.padded_elements());
          } else if (op.kind == Kind::receive) {
            received[{group, op.peer, r}].push_back(op.count);
            ASSERT_LE(op.offset + op.count, plan.received_elements);
          } else if (op.kind != Kind::complete && op.kind != Kind::mark_finite) {
            if (op.kind == Kind::group_begin) ++group;
            lines.push_back(text_of(op));
          }
        }
      };
      for (const auto& ops : plan.gradients) walk(ops);
      walk(plan.finish);
      walk(plan.block_values);
      walk(plan.parameters);
      if (r == 0) first = lines;
      ASSERT_EQ(lines, first) << "draw " << draw << " rank " << r;
      for (const Range& range : plan.buckets.shard(r)) {
        ASSERT_EQ(range.begin % block_elements, 0);
        for (std::int64_t i = range.begin; i < range.end; ++i) ++owners[static_cast<std::size_t>(i)];
      }
    }
    ASSERT_EQ(sent, received) << "draw " << draw;
    ASSERT_TRUE(std::all_of(owners.begin(), owners.end(), [](int n) { return n == 1; })) << "draw " << draw;
  }
}

TEST(CollectivePlan, EveryEntryIsLeftAndCounted) {
  const CollectivePlan plan(options_of(100000, 1, 3, 7, 20000, true, Reduction::ordered, true, true));
  std::int64_t entered = 0;
  std::int64_t left = 0;
  const auto walk = [&](const std::vector<CollectiveOp>& ops) {
    for (const CollectiveOp& op : ops) {
      entered += op.kind == Kind::enter;
      left += op.kind == Kind::leave;
      EXPECT_TRUE(entered == left || entered == left + 1);
    }
  };
  for (const auto& ops : plan.gradients) walk(ops);
  walk(plan.finish);
  walk(plan.block_values);
  walk(plan.parameters);
  EXPECT_EQ(entered, left);
  EXPECT_EQ(entered, plan.entries());
  EXPECT_EQ(entered, plan.buckets.buckets() + 3);
}

TEST(CollectivePlan, OneRankExchangesNothing) {
  for (const bool sharded : {false, true}) {
    const CollectivePlan plan(options_of(50000, 0, 1, 6, 10000, sharded, Reduction::ordered, true, true));
    EXPECT_EQ(plan.entries(), 0);
    EXPECT_EQ(plan.sent_bytes(), 0);
    EXPECT_EQ(plan.received_elements, 0);
  }
}

TEST(CollectivePlan, BytesAreThoseOfARingWhereRanksHoldWholeSubtrees) {
  const std::int64_t elements = 8 * 4096 * 10;
  const CollectivePlan plan(options_of(elements, 3, 8, 8, 0, true, Reduction::ordered, false));
  // Reduce-scatter and all-gather of a ring: 2 (N - 1) / N of the buffer.
  EXPECT_EQ(plan.sent_bytes(), 2 * elements * 4 * 7 / 8);
  const CollectivePlan fast(options_of(elements, 3, 8, 8, 0, false, Reduction::fast, false));
  EXPECT_EQ(fast.sent_bytes(), plan.sent_bytes());
}

}  // namespace
}  // namespace lockstep
