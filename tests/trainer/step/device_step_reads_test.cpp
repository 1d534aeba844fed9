// What is read of a device's memory is not sent back, and what ends with an error ends in the order in which
// memory can be freed. On a device that the host plays and that counts.

#include <cmath>
#include <cstring>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <stdexcept>

#include "comm/threads/thread_communicator.h"
#include "core/error.h"
#include "device/lane_pool.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/make_batch.h"
#include "support/temp_dir.h"
#include "trainer/checkpoint/run_checkpoints.h"
#include "trainer/guard/replica_check.h"
#include "trainer/step/model_state.h"
#include "trainer/step/told_device.h"
#include "trainer/step/train_step.h"

namespace lockstep {
namespace {

using test::Told;

constexpr std::int64_t slices = 4, rows = 2;
const Shape image{1, 6, 6};

Graph small_graph() {
  return build_layers("conv:8x3 bn relu flatten dense:3", image, 3, CrossEntropyAttrs{});
}

TrainStepOptions options_of(const std::shared_ptr<Told>& told, bool sharded) {
  TrainStepOptions options;
  options.slice_rows = rows;
  options.optimizer.name = "adam";
  options.sync.slices = slices;
  options.sync.sharded = sharded;
  options.sync.bucket_elements = 4096;
  if (told) options.device = test::told_device(told);
  return options;
}

/// Batches of step `now` for one rank.
struct StepData {
  StepData(Node mine, std::int64_t now) {
    for (std::int64_t s = mine.begin; s < mine.end; ++s) {
      inputs.emplace_back();
      for (std::int64_t i = 0; i < rows * image.elements(); ++i)
        inputs.back().push_back(std::sin(static_cast<float>(i * 5 + s * 37 + now * 11)));
    }
    for (std::int64_t s = mine.begin; s < mine.end; ++s)
      slices.push_back(
          test::make_batch(s, rows, rows, samples, inputs[static_cast<std::size_t>(s - mine.begin)], labels));
    results.resize(slices.size());
  }
  std::vector<std::vector<float>> inputs;
  std::vector<std::int64_t> samples = std::vector<std::int64_t>(rows, 0);
  std::vector<std::int32_t> labels = std::vector<std::int32_t>(rows, 1);
  std::vector<Batch> slices;
  std::vector<SliceResult> results;
};

void take(TrainStep& step, std::int64_t now) {
  StepData batch(step.slices(), now);
  ASSERT_EQ(step.run(batch.slices, slices * rows, now, 0.01, batch.results).fault, StepFault::none);
}

/// What reads all of it, as a run does: a checkpoint, a comparison of replicas, an evaluation.
void read_all(TrainStep& step, Communicator& comm, LanePool& lanes, RunCheckpoints& checkpoints,
              ReplicaCheck& replicas, std::int64_t now) {
  RunState state;
  state.step = now;
  state.slices = slices;
  checkpoints.save(state);
  EXPECT_TRUE(checkpoints.wait());
  EXPECT_EQ(replicas.run(now), "");
  const auto model = export_model(step.executor(), step.parameters());
  EXPECT_FALSE(model.empty());
  (void)gather_optimizer_state(comm, step.executor(), step.optimizer());
  (void)lanes;
}

TEST(DeviceStepReads, WhatReadsTheDevicesMemorySendsNothingBack) {
  const test::TempDir folder;
  for (const int ranks : {1, 2, 3})
    for (const bool sharded : {true, false}) {
      const std::string directory = folder / (std::to_string(ranks) + (sharded ? "s" : "r"));
      std::filesystem::create_directories(directory);
      run_ranks(ranks, {}, [&](Communicator& comm) {
        const auto told = std::make_shared<Told>();
        LanePool lanes(1);
        const Graph graph = small_graph();
        const std::unique_ptr<TrainStep> made_step =
            make_train_step(graph, options_of(told, sharded), comm, lanes);
        TrainStep& step = *made_step;
        // The same steps, of which nothing is read.
        const auto quiet_told = std::make_shared<Told>();
        const std::unique_ptr<TrainStep> made_quiet =
            make_train_step(graph, options_of(quiet_told, sharded), comm, lanes);
        TrainStep& quiet = *made_quiet;
        for (TrainStep* s : {&step, &quiet})
          initialise_model(graph, s->executor(), 3, s->writable_parameters());
        const Log log;
        RunCheckpoints checkpoints(comm, log, step, lanes, directory, {false, 2, {}});
        ReplicaCheck replicas(step, sharded, false,
                              std::vector<std::string>(static_cast<std::size_t>(ranks), "here"), comm, lanes);
        const std::int64_t before = told->uploads;
        take(step, 0);
        take(quiet, 0);
        const std::int64_t first = told->uploads;
        EXPECT_GT(first, before) << "the parameters go to the device once";
        for (std::int64_t now = 1; now < 5; ++now) {
          read_all(step, comm, lanes, checkpoints, replicas, now);
          take(step, now);
          take(quiet, now);
          EXPECT_EQ(told->uploads, first) << ranks << " ranks, step " << now;
        }
        const auto a = std::as_const(step).parameters(), b = std::as_const(quiet).parameters();
        EXPECT_EQ(0, std::memcmp(a.data(), b.data(), a.size_bytes()));
        comm.barrier();
      });
    }
}

TEST(DeviceStepReads, WhatIsWrittenReachesTheDeviceOnceAndHasItsEffect) {
  for (const int ranks : {1, 2}) {
    std::vector<float> ends[2];
    for (const bool on_device : {false, true})
      run_ranks(ranks, {}, [&](Communicator& comm) {
        const auto told = std::make_shared<Told>();
        LanePool lanes(1);
        const Graph graph = small_graph();
        TrainStepOptions options = options_of(told, true);
        if (!on_device) {  // the same executor, and all flat buffers in host memory
          options.device.make_step = {};
        }
        const std::unique_ptr<TrainStep> made_step = make_train_step(graph, options, comm, lanes);
        TrainStep& step = *made_step;
        initialise_model(graph, step.executor(), 3, step.writable_parameters());
        comm.barrier();
        take(step, 0);
        comm.barrier();
        (void)step.parameters();
        for (float& p : step.writable_parameters().first(40)) p += 0.25f;
        for (const Range& range : step.optimizer().shard())
          for (float& m : step.writable_optimizer().state(0, range)) m *= 0.5f;
        comm.barrier();
        const std::int64_t before = told->uploads;
        take(step, 1);
        const std::int64_t once = told->uploads;
        EXPECT_EQ(once > before, on_device);
        take(step, 2);
        EXPECT_EQ(told->uploads, once);
        comm.barrier();
        if (comm.rank() == 0) ends[on_device].assign(step.parameters().begin(), step.parameters().end());
        comm.barrier();
      });
    ASSERT_EQ(ends[0].size(), ends[1].size());
    EXPECT_EQ(0, std::memcmp(ends[0].data(), ends[1].data(), ends[0].size() * sizeof(float))) << ranks;
  }
}

TEST(DeviceStepEnds, AnErrorEndsTheSynchroniserBeforeMemoryIsFreed) {
  const auto told = std::make_shared<Told>();
  bool thrown = false;
  try {
    run_ranks(1, {}, [&](Communicator& comm) {
      LanePool lanes(1);
      TrainStepOptions options = options_of(told, true);
      options.after_slice = [](std::int64_t slice, Range, std::span<float>) {
        if (slice == 2) throw CommError("a peer is gone");
      };
      const std::unique_ptr<TrainStep> made_step = make_train_step(small_graph(), options, comm, lanes);
      TrainStep& step = *made_step;
      initialise_model(small_graph(), step.executor(), 3, step.writable_parameters());
      take(step, 0);
    });
  } catch (const std::exception& e) {
    thrown = true;
    EXPECT_THAT(e.what(), testing::HasSubstr("a peer is gone"));
  }
  EXPECT_TRUE(thrown);
  EXPECT_THAT(told->ends, testing::ElementsAre(testing::StartsWith("abandoned: "), "synchroniser",
                                               "memory of the step", "memory of the executor"));
}

TEST(DeviceStepEnds, AQuietEndAbandonsNothing) {
  const auto told = std::make_shared<Told>();
  run_ranks(1, {}, [&](Communicator& comm) {
    LanePool lanes(1);
    const std::unique_ptr<TrainStep> made_step =
        make_train_step(small_graph(), options_of(told, true), comm, lanes);
    TrainStep& step = *made_step;
    initialise_model(small_graph(), step.executor(), 3, step.writable_parameters());
    take(step, 0);
  });
  EXPECT_THAT(told->ends,
              testing::ElementsAre("synchroniser", "memory of the step", "memory of the executor"));
}

}  // namespace
}  // namespace lockstep
