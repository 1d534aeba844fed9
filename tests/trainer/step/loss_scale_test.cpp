// Dynamic loss scaling in the training step: an overflow is skipped by all ranks alike, and the scale falls
// and rises.

#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <memory>

#include "comm/threads/thread_communicator.h"
#include "device/lane_pool.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/make_batch.h"
#include "trainer/step/model_state.h"
#include "trainer/step/train_step.h"

namespace lockstep {
namespace {

constexpr std::int64_t slices = 4, rows = 2, width = 6, classes = 3;

struct Seen {
  std::vector<StepFault> faults;
  std::vector<float> scales;  ///< that the executor was given
  std::vector<float> parameters;
  LossScale last;
};

/// Steps on the CPU as on a device that computes in float16: `overflows` names steps in which the last rank's
/// gradient leaves the range.
Seen train(int ranks, const std::vector<std::int64_t>& overflows, std::int64_t steps, LossScale start = {}) {
  const Graph graph = build_layers("dense:8 relu dense:3", {width}, classes, CrossEntropyAttrs{});
  Seen seen;
  run_ranks(ranks, {}, [&](Communicator& comm) {
    std::vector<float> input(static_cast<std::size_t>(rows * width));
    for (std::size_t i = 0; i < input.size(); ++i) input[i] = std::sin(static_cast<float>(i));
    const std::vector<std::int32_t> labels = {0, 2};
    const std::vector<std::int64_t> samples = {0, 1};
    TrainStepOptions options;
    options.slice_rows = rows;
    options.sync.slices = slices;
    options.optimizer.name = "adam";
    options.watch_gradient = false;  // scaling watches by itself
    options.device.scales_loss = true;
    options.device.compile = [&](const Graph& g, const ExecutorOptions& o, LanePool& lanes,
                                 Timeline* timeline) {
      /// Notes the scale that it is given, and else computes as the CPU does.
      struct Noting final : Executor {
        std::unique_ptr<Executor> inner;
        std::vector<float>* scales = nullptr;
        const FlatLayout& layout() const override { return inner->layout(); }
        const SliceSchedule& schedule() const override { return inner->schedule(); }
        PlanReport report() const override { return inner->report(); }
        std::string fingerprint() const override { return inner->fingerprint(); }
        void train(const StepInputs& inputs) override {
          if (scales != nullptr) scales->push_back(inputs.loss_scale);
          inner->train(inputs);
        }
        void infer(const StepInputs& inputs, std::span<const std::span<float>> out) override {
          inner->infer(inputs, out);
        }
        void export_plain(const FlatSegment& s, std::span<const float> a, std::span<float> b) const override {
          inner->export_plain(s, a, b);
        }
        void import_plain(const FlatSegment& s, std::span<const float> a, std::span<float> b) const override {
          inner->import_plain(s, a, b);
        }
      };
      auto noting = std::make_unique<Noting>();
      noting->inner = compile_cpu(g, o, lanes, timeline);
      if (comm.rank() == 0) noting->scales = &seen.scales;
      return noting;
    };
    std::int64_t now = 0;
    options.before_ready = [&](Range range, std::span<const std::span<float>> roots) {
      if (comm.rank() == comm.size() - 1 && std::count(overflows.begin(), overflows.end(), now) > 0)
        roots[0][static_cast<std::size_t>(range.begin)] = std::numeric_limits<float>::infinity();
    };
    LanePool lanes(1);
    const std::unique_ptr<TrainStep> made_step = make_train_step(graph, options, comm, lanes);
    TrainStep& step = *made_step;
    initialise_model(graph, step.executor(), 3, step.writable_parameters());
    comm.barrier();
    step.set_loss_scale(start);
    const Node mine = step.slices();
    std::vector<Batch> batches;
    for (std::int64_t s = mine.begin; s < mine.end; ++s)
      batches.push_back(test::make_batch(s, rows, rows, samples, input, labels));
    std::vector<SliceResult> results(batches.size());
    for (; now < steps; ++now) {
      const StepOutcome outcome = step.run(batches, slices * rows, now, 0.01, results);
      if (comm.rank() == 0) seen.faults.push_back(outcome.fault);
    }
    comm.barrier();
    if (comm.rank() != 0) return;
    seen.last = step.loss_scale();
    const auto p = step.parameters();
    seen.parameters.assign(p.begin(), p.end());
  });
  return seen;
}

TEST(LossScaling, AnOverflowIsSkippedAndTheScaleFalls) {
  for (int ranks = 1; ranks <= 3; ++ranks) {
    const Seen seen = train(ranks, {1, 2}, 5);
    EXPECT_EQ(seen.faults, (std::vector<StepFault>{StepFault::none, StepFault::overflow, StepFault::overflow,
                                                   StepFault::none, StepFault::none}));
    EXPECT_EQ(seen.scales, (std::vector<float>{65536, 65536, 32768, 16384, 16384}));
    EXPECT_EQ(seen.last, (LossScale{16384, 2, 2}));
    // Three updates were made, and Adam counts three: the same bits as three steps that never overflowed.
    EXPECT_EQ(seen.parameters, train(ranks, {}, 3).parameters);
    EXPECT_EQ(seen.parameters, train(1, {1, 2}, 5).parameters);
  }
}

TEST(LossScaling, TheScaleRisesAfterTwoThousandGoodSteps) {
  const Seen seen = train(1, {}, 3, {1024, 1998, 0});
  EXPECT_EQ(seen.scales, (std::vector<float>{1024, 1024, 2048}));
  EXPECT_EQ(seen.last, (LossScale{2048, 1, 0}));
}

TEST(LossScaling, AGradientThatIsBadAtTheSmallestScaleIsAFault) {
  const Seen seen = train(2, {0, 1}, 2, {2, 0, 0});
  EXPECT_EQ(seen.faults, (std::vector<StepFault>{StepFault::overflow, StepFault::nonfinite}));
}

}  // namespace
}  // namespace lockstep
