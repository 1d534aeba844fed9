#include "core/flight_recorder.h"

#include <atomic>
#include <chrono>
#include <gtest/gtest.h>
#include <thread>

namespace lockstep {
namespace {

TEST(FlightRecorder, ShowsTheInnermostThingUnderWayAndKeepsWhatIsOver) {
  FlightSlot slot;
  FlightRecorder recorder(slot);
  EXPECT_EQ(slot.now.read().number, 0u);
  recorder.set_step(840);
  {
    const FlightScope step(&recorder, Activity::train);
    {
      const FlightScope scope(&recorder, Activity::exchange, 4096, 12);
      const FlightEvent now = slot.now.read();
      EXPECT_EQ(now.activity, Activity::exchange);
      EXPECT_EQ(now.step, 840);
      EXPECT_EQ(now.bucket, 12);
      EXPECT_EQ(now.bytes, 4096u);
      EXPECT_EQ(now.call, 1u);
      EXPECT_EQ(now.end_ns, 0);
      EXPECT_EQ(describe(now), "bucket 12 of step 840");
      recorder.at_bucket(13);
      EXPECT_EQ(slot.now.read().bucket, 13);
    }
    EXPECT_EQ(slot.now.read().activity, Activity::train);
  }
  EXPECT_EQ(slot.now.read().number, 0u);
  const auto events = events_of(slot);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].activity, Activity::train);
  EXPECT_EQ(events[1].activity, Activity::exchange);
  for (const FlightEvent& e : events) EXPECT_GE(e.end_ns, e.begin_ns);
}

TEST(FlightRecorder, CountsCollectivesAndKeepsTheLastOnes) {
  FlightSlot slot;
  FlightRecorder recorder(slot);
  for (int i = 0; i < 100; ++i) {
    const FlightScope phase(&recorder, Activity::compute);
    const FlightScope call(&recorder, i % 2 == 0 ? Activity::barrier : Activity::all_gather, 8);
  }
  const auto calls = calls_of(slot);
  ASSERT_EQ(calls.size(), FlightSlot::calls);
  EXPECT_EQ(calls.back().call, 100u);
  EXPECT_EQ(calls.front().call, 100u - FlightSlot::calls + 1);
  EXPECT_EQ(calls.back().activity, Activity::all_gather);
  EXPECT_EQ(events_of(slot).size(), FlightSlot::events);
  EXPECT_EQ(events_of(slot, 3).size(), 3u);
  EXPECT_EQ(events_of(slot, 3).back().number, 200u);
}

TEST(FlightRecorder, AllThatHappensIsABeat) {
  FlightSlot slot;
  FlightRecorder recorder(slot);
  std::uint64_t last = slot.beats.load();
  const auto moved = [&] { return std::exchange(last, slot.beats.load()) != slot.beats.load(); };
  recorder.begin(Activity::exchange, 8);
  EXPECT_TRUE(moved());
  recorder.at_bucket(3);
  EXPECT_TRUE(moved());
  recorder.at_bucket(3);
  EXPECT_FALSE(moved());
  recorder.tick();
  EXPECT_TRUE(moved());
  recorder.note(Activity::exchange, 1, 2, 3, 4);
  EXPECT_TRUE(moved());
  recorder.end();
  EXPECT_TRUE(moved());
}

TEST(FlightRecorder, PatientPhasesMakeTheWorkInsideThemPatientButNotTheWaits) {
  FlightSlot slot;
  FlightRecorder recorder(slot);
  const FlightScope start(&recorder, Activity::start);
  EXPECT_EQ(slot.patience.load(), 10);
  {
    const FlightScope train(&recorder, Activity::train);
    EXPECT_EQ(slot.patience.load(), 1);
    const FlightScope save(&recorder, Activity::save);
    EXPECT_EQ(slot.patience.load(), 10);
    {
      const FlightScope wait(&recorder, Activity::all_gather, 8);
      EXPECT_EQ(slot.patience.load(), 1);
    }
    const FlightScope work(&recorder, Activity::compute);
    EXPECT_EQ(slot.patience.load(), 10);
  }
  EXPECT_EQ(slot.patience.load(), 10);
}

TEST(FlightRecorder, OtherThreadsNoteAndDoNotMoveTheRank) {
  FlightSlot slot;
  FlightRecorder recorder(slot);
  const FlightScope phase(&recorder, Activity::compute);
  std::thread([&] {
    const FlightScope scope(&recorder, Activity::all_gather, 16);
    recorder.set_step(7);
    EXPECT_EQ(slot.now.read().activity, Activity::compute);
  }).join();
  EXPECT_EQ(recorder.step(), -1);
  EXPECT_EQ(slot.now.read().activity, Activity::compute);
  EXPECT_TRUE(calls_of(slot).empty()) << "only the rank's own thread takes part in the count";
  EXPECT_EQ(events_of(slot).back().activity, Activity::all_gather);
}

TEST(FlightRecorder, WhatTheDeviceDoesIsProgressUntilNobodyTellsOfIt) {
  FlightSlot slot;
  FlightRecorder recorder(slot);
  recorder.look_at_device();
  EXPECT_EQ(device_of(slot), CollectiveProgress{});
  CollectiveProgress told{1, 0, 4};
  recorder.watch_device([&] { return told; });
  std::uint64_t beats = slot.beats;
  recorder.look_at_device();
  EXPECT_EQ(device_of(slot), told);
  EXPECT_EQ(slot.beats, beats + 1);
  recorder.look_at_device();
  EXPECT_EQ(slot.beats, beats + 1) << "nothing has changed";
  EXPECT_EQ(describe(device_of(slot)), "collective 1 on the device (bucket 4)");
  told.left = 1;
  recorder.look_at_device();
  EXPECT_EQ(slot.beats, beats + 2);
  EXPECT_EQ(describe(device_of(slot)), "1 collective done on the device");
  recorder.watch_device(nullptr);
  told.entered = 7;
  recorder.look_at_device();
  EXPECT_EQ(device_of(slot), CollectiveProgress{});
}

TEST(FlightRecorder, DeeperThanItHoldsDoesNoHarm) {
  FlightSlot slot;
  FlightRecorder recorder(slot);
  for (int i = 0; i < 40; ++i) recorder.begin(Activity::compute);
  for (int i = 0; i < 40; ++i) recorder.end();
  EXPECT_EQ(slot.now.read().number, 0u);
  recorder.end();
  recorder.begin(Activity::save);
  EXPECT_EQ(slot.now.read().activity, Activity::save);
}

TEST(FlightRecorder, AReaderNeverSeesHalfAnEvent) {
  FlightSlot slot;
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    FlightRecorder recorder(slot);
    for (std::int64_t i = 0; !stop; ++i) {
      recorder.set_step(i);
      const FlightScope scope(&recorder, Activity::exchange, static_cast<std::uint64_t>(i), i);
      recorder.tick();
    }
  });
  std::thread lane([&] {
    while (!stop) slot.beats.store(slot.beats.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  });
  int seen = 0;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (seen < 5000 && std::chrono::steady_clock::now() < until) {
    const FlightEvent e = slot.now.read();
    if (e.number == 0) continue;
    ++seen;
    EXPECT_EQ(static_cast<std::int64_t>(e.bytes), e.step);
    EXPECT_EQ(e.bucket, e.step);
    for (const FlightEvent& old : events_of(slot, 8)) EXPECT_EQ(old.bucket, old.step);
  }
  stop = true;
  writer.join();
  lane.join();
  EXPECT_GT(seen, 0);
}

}  // namespace
}  // namespace lockstep
