#include "core/timeline.h"

#include <gtest/gtest.h>
#include <set>
#include <thread>

#include "core/error.h"
#include "core/text.h"
#include "support/temp_dir.h"

namespace lockstep {
namespace {

TEST(Timeline, WithoutCapacityItRecordsNothing) {
  Timeline timeline;
  EXPECT_FALSE(timeline.enabled());
  timeline.record(EventKind::step, 0, 1, 2, 3, 4);
  EXPECT_TRUE(timeline.events().empty());
  EXPECT_EQ(timeline.dropped(), 0u);
}

TEST(Timeline, KeepsEventsInTheOrderOfRecording) {
  Timeline timeline(4);
  EXPECT_TRUE(timeline.enabled());
  timeline.record(EventKind::slice_forward, 1, 10, 11, 100, 200);
  timeline.record(EventKind::exchange, 0, 20, 21, 50, 60);
  const std::vector<TimelineEvent> events = timeline.events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, EventKind::slice_forward);
  EXPECT_EQ(events[0].lane, 1);
  EXPECT_EQ(events[0].a, 10);
  EXPECT_EQ(events[0].b, 11);
  EXPECT_EQ(events[0].begin_ns, 100);
  EXPECT_EQ(events[0].end_ns, 200);
  EXPECT_EQ(events[1].kind, EventKind::exchange);
}

TEST(Timeline, CountsWhatItDropsWhenFull) {
  Timeline timeline(3);
  for (int i = 0; i < 10; ++i) timeline.record(EventKind::step, 0, i, 0, 0, 0);
  ASSERT_EQ(timeline.events().size(), 3u);
  EXPECT_EQ(timeline.events()[2].a, 2);
  EXPECT_EQ(timeline.dropped(), 7u);
}

TEST(Timeline, LosesNothingOfSeveralThreads) {
  constexpr int threads = 4, each = 5000;
  Timeline timeline(threads * each);
  std::vector<std::thread> recorders;
  recorders.reserve(threads);
  for (int t = 0; t < threads; ++t) {
    recorders.emplace_back([&timeline, t] {
      for (int i = 0; i < each; ++i) timeline.record(EventKind::reduce, t, t, i, i, i + 1);
    });
  }
  for (std::thread& recorder : recorders) recorder.join();
  std::set<std::pair<std::int64_t, std::int64_t>> seen;
  for (const TimelineEvent& e : timeline.events()) seen.emplace(e.a, e.b);
  EXPECT_EQ(seen.size(), std::size_t{threads * each});
  EXPECT_EQ(timeline.dropped(), 0u);
}

TEST(Timeline, ItsClockRunsForwards) {
  const Timeline timeline;
  const std::int64_t first = timeline.now();
  EXPECT_GE(first, 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_GE(timeline.now() - first, 2'000'000);
}

TEST(Timeline, WritesOneJsonObjectALine) {
  const test::TempDir dir;
  Timeline timeline(2);
  timeline.record(EventKind::slice_backward, 2, 7, -1, 5, 6);
  timeline.record(EventKind::save, 0, 8, 0, 9, 10);
  timeline.write(dir / "timeline.jsonl");
  EXPECT_EQ(test::read_file_bytes(dir / "timeline.jsonl"),
            "{\"kind\":\"slice_backward\",\"lane\":2,\"a\":7,\"b\":-1,\"begin_ns\":5,\"end_ns\":6}\n"
            "{\"kind\":\"save\",\"lane\":0,\"a\":8,\"b\":0,\"begin_ns\":9,\"end_ns\":10}\n");
  EXPECT_THROW(timeline.write(dir / "none/timeline.jsonl"), InputError);
}

TEST(Timeline, EveryKindHasAName) {
  std::set<std::string> names;
  for (const EventKind kind : {EventKind::step, EventKind::slice_forward, EventKind::slice_backward,
                               EventKind::op_backward, EventKind::exchange, EventKind::reduce,
                               EventKind::optimizer, EventKind::gather, EventKind::load, EventKind::save})
    names.insert(name_of(kind));
  EXPECT_EQ(names.size(), 10u);
}

}  // namespace
}  // namespace lockstep
