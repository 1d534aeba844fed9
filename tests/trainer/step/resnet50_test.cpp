// ResNet-50 at a small size through the whole training step: the same digest on any number of ranks, and a
// loss that falls.

#include <cmath>
#include <gtest/gtest.h>
#include <memory>
#include <vector>

#include "comm/threads/thread_communicator.h"
#include "core/digest.h"
#include "data/epoch_order.h"
#include "data/loader.h"
#include "data/normalized_field.h"
#include "data/readers/synthetic.h"
#include "device/lane_pool.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/zoo.h"
#include "trainer/guard/loss_log.h"
#include "trainer/step/model_state.h"
#include "trainer/step/train_step.h"

namespace lockstep {
namespace {

constexpr std::int64_t slices = 4, batch = 16, classes = 4;

struct Outcome {
  std::string digest;
  std::vector<double> losses;
};

/// The recipe of configs/resnet50_imagenet.ini with a constant learning rate, on made-up images.
Outcome train(int ranks, std::int64_t steps) {
  const Shape image{3, 32, 32};
  const Graph graph = build_model("resnet50", {{"width", "4"}}, image, classes, CrossEntropyAttrs{});
  SyntheticOptions made;
  made.samples = 32;
  made.shape = image;
  made.classes = classes;
  made.seed = 3;
  const auto data = std::make_shared<MemoryDataset>(make_synthetic(made));
  const EpochOrder order(made.samples, batch, slices, 3);
  Outcome outcome;
  run_ranks(ranks, {}, [&](Communicator& comm) {
    TrainStepOptions options;
    options.slice_rows = batch / slices;
    options.optimizer.momentum = 0.9;
    options.optimizer.weight_decay = 1e-4;
    options.optimizer.decay_norms = false;
    options.sync.slices = slices;
    options.sync.bucket_elements = 8192;
    LanePool lanes(1);
    const std::unique_ptr<TrainStep> made_step = make_train_step(graph, options, comm, lanes);
    TrainStep& step = *made_step;
    initialise_model(graph, step.executor(), 3, step.writable_parameters());
    comm.barrier();
    LoaderOptions loading;
    loading.data = data;
    loading.fields = batch_fields(graph.fields, *data, {}).readers;
    loading.mine = step.slices();
    Loader loader(order, std::move(loading));
    LossLog log(comm, slices, 1);
    std::vector<SliceResult> results(static_cast<std::size_t>(step.slices().size()));
    for (std::int64_t s = 0; s < steps; ++s) {
      const LoadedBatch& loaded = loader.next();
      step.run(loaded.slices, loaded.range.count, s, 0.05, results);
      log.record(s, results);
      for (const StepSums& sums : log.flush())
        if (comm.rank() == 0) outcome.losses.push_back(sums.loss / sums.weight);
    }
    comm.barrier();
    if (comm.rank() != 0) return;
    TensorDigest digest;
    for (const auto& t : export_model(step.executor(), step.parameters()))
      digest.add(t.name, DType::f32, t.shape, std::as_bytes(std::span(t.data)));
    outcome.digest = digest.hex();
  });
  return outcome;
}

TEST(Resnet50, TheDigestIsTheSameOnOneToFourRanks) {
  const Outcome one = train(1, 3);
  ASSERT_EQ(one.digest.size(), 64u);
  for (int ranks = 2; ranks <= 4; ++ranks) {
    const Outcome other = train(ranks, 3);
    EXPECT_EQ(other.digest, one.digest) << ranks;
    EXPECT_EQ(other.losses, one.losses) << ranks;
  }
}

TEST(Resnet50, Learns) {
  const Outcome outcome = train(1, 30);
  ASSERT_EQ(outcome.losses.size(), 30u);
  for (const double loss : outcome.losses) ASSERT_TRUE(std::isfinite(loss));
  // Four classes at the start: about ln 4.
  EXPECT_NEAR(outcome.losses.front(), std::log(4.0), 0.7);
  EXPECT_LT(outcome.losses.back(), 0.5 * outcome.losses.front());
}

}  // namespace
}  // namespace lockstep
