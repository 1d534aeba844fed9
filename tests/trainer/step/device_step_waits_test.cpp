// How often the host waits for the device in a training step, on a device that hands over nothing before it
// is waited for.

#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <memory>
#include <vector>

#include "comm/threads/thread_communicator.h"
#include "device/lane_pool.h"
#include "model/cuda/host_engine.h"
#include "model/cuda/host_machine.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/make_batch.h"
#include "trainer/step/host_step.h"
#include "trainer/step/model_state.h"
#include "trainer/step/train_step.h"

namespace lockstep {
namespace {

/// What the executor's and the step's queue have in common: one stream.
struct LateStream {
  struct Copy {
    void* to;
    std::vector<std::byte> bytes;
  };
  std::vector<Copy> under_way;
  std::int64_t waits = 0;
};

/// Copies to the host arrive when the host waits for the stream, and not before.
class LateMachine : public test::HostMachine {
 public:
  explicit LateMachine(std::shared_ptr<LateStream> stream) : stream_(std::move(stream)) {}
  void copy_out(void* pinned, const void* device, std::size_t bytes, cuda::Lane) override {
    const auto* from = static_cast<const std::byte*>(device);
    stream_->under_way.push_back({pinned, {from, from + bytes}});
  }
  void finish() override {
    ++stream_->waits;
    for (const LateStream::Copy& copy : stream_->under_way)
      std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
    stream_->under_way.clear();
  }

 private:
  std::shared_ptr<LateStream> stream_;
};

ComputeDevice late_device(const std::shared_ptr<LateStream>& stream, bool half) {
  ComputeDevice device;
  device.name = "late";
  device.compile = [=](const Graph& graph, const ExecutorOptions& options, LanePool&, Timeline*) {
    cuda::CudaOptions cuda_options;
    if (half) cuda_options.precision = cuda::Precision::fp16;
    return test::make_host_engine(graph, options, cuda_options, std::make_unique<LateMachine>(stream), 700)
        .executor;
  };
  device.scales_loss = half;
  device.make_step = [stream] { return test::make_host_step(std::make_unique<LateMachine>(stream)); };
  return device;
}

struct Case {
  int ranks = 1;
  bool sharded = true;
  double clip = 0;
  bool watched = true;
  bool asked = false;
  bool half = false;
};

/// The waits of each of six steps, the fourth of which has a loss that is not finite in the last slice.
std::vector<std::int64_t> waits_of(const Case& c) {
  constexpr std::int64_t slices = 4, rows = 2;
  const Shape image{1, 6, 6};
  const Graph graph = build_layers("conv:8x3 bn relu flatten dense:3", image, 3, CrossEntropyAttrs{});
  std::vector<std::int64_t> waits;
  run_ranks(c.ranks, {}, [&](Communicator& comm) {
    const auto stream = std::make_shared<LateStream>();
    TrainStepOptions options;
    options.slice_rows = rows;
    options.clip_norm = c.clip;
    options.optimizer.name = "adam";
    options.sync.slices = slices;
    options.sync.sharded = c.sharded;
    options.sync.bucket_elements = 4096;
    options.device = late_device(stream, c.half);
    options.watch_gradient = c.watched;
    if (c.asked) options.before_update = [](std::span<const SliceResult>) { return true; };
    LanePool lanes(1);
    const std::unique_ptr<TrainStep> made_step = make_train_step(graph, options, comm, lanes);
    TrainStep& step = *made_step;
    initialise_model(graph, step.executor(), 3, step.writable_parameters());
    comm.barrier();
    const Node mine = step.slices();
    std::vector<SliceResult> results(static_cast<std::size_t>(mine.size()));
    std::vector<std::vector<float>> inputs(results.size());
    const std::vector<std::int64_t> samples(rows, 0);
    const std::vector<std::int32_t> labels(rows, 1);
    for (std::int64_t now = 0; now < 6; ++now) {
      std::vector<Batch> batches;
      for (std::int64_t s = mine.begin; s < mine.end; ++s) {
        std::vector<float>& input = inputs[static_cast<std::size_t>(s - mine.begin)];
        input.clear();
        for (std::int64_t i = 0; i < rows * image.elements(); ++i)
          input.push_back(std::sin(static_cast<float>(i * 5 + s * 37 + now * 11)));
        if (c.watched && now == 3 && s == slices - 1) input[3] = std::numeric_limits<float>::quiet_NaN();
        batches.push_back(test::make_batch(s, rows, rows, samples, input, labels));
      }
      const std::int64_t before = stream->waits;
      for (SliceResult& result : results) result.loss = -1;
      const StepOutcome outcome = step.run(batches, slices * rows, now, 0.01, results);
      const std::int64_t waited = stream->waits - before;
      EXPECT_TRUE(stream->under_way.empty());
      const StepFault bad = c.half ? StepFault::overflow : StepFault::nonfinite;
      EXPECT_EQ(outcome.fault, c.watched && now == 3 ? bad : StepFault::none) << now;
      if (outcome.fault == StepFault::none) {
        for (const SliceResult& result : results) EXPECT_GT(result.loss, 0);
        EXPECT_EQ(outcome.gradient_norm > 0, c.clip > 0);
        EXPECT_GT(step.times().compute, 0);
        EXPECT_GE(step.times().step, step.times().compute + step.times().wait);
      }
      if (comm.rank() == 0) waits.push_back(waited);
    }
    comm.barrier();
  });
  return waits;
}

TEST(DeviceStepWaits, ASteadyStepWaitsForTheDeviceOnce) {
  for (const int ranks : {1, 2, 3})
    for (const bool sharded : {true, false})
      for (const double clip : {0.0, 0.5})
        for (const auto& [watched, half] : {std::pair(true, false), {false, false}, {true, true}}) {
          std::vector<std::int64_t> waits = waits_of({ranks, sharded, clip, watched, false, half});
          EXPECT_GE(waits[0], 1);  // the parameters go to the device
          waits.erase(waits.begin());
          EXPECT_EQ(waits, std::vector<std::int64_t>(5, 1)) << ranks << " " << sharded << " " << clip;
        }
}

TEST(DeviceStepWaits, WhereTheHostIsAskedItWaitsForWhatItIsAskedAbout) {
  const std::vector<std::int64_t> waits = waits_of({2, true, 0.5, true, true});
  EXPECT_GT(waits[1], 1);
}

}  // namespace
}  // namespace lockstep
