// Training steps whose flat buffers lie on a device, with the host in the part of the GPU: the same bits as
// with all of it in host memory, whatever the ranks; and nobody sees old parameters or optimizer state.

#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>

#include "comm/thread_communicator.h"
#include "device/lane_pool.h"
#include "model/layers_line.h"
#include "support/process.h"
#include "trainer/model_state.h"
#include "trainer/step_device.h"
#include "trainer/train_step.h"

namespace lockstep {
namespace {

constexpr std::int64_t slices = 5, rows = 3, classes = 4;
const Shape image{2, 8, 8};

struct Recipe {
  std::string optimizer = "sgd";
  double clip = 0;
  bool sharded = true;
  bool fast = false;
  cuda::Precision precision = cuda::Precision::fp32;
  std::int64_t bad_label_step = -1;  ///< an input of this step is infinite
};

struct Trained {
  std::vector<float> parameters;
  std::vector<float> state;
  std::vector<double> losses;
  std::vector<StepFault> faults;
};

/// Four steps; with `interrupted`, parameters and state are taken out after two and put into a new step.
Trained train(int ranks, bool resident, const Recipe& recipe, bool interrupted = false) {
  const Graph graph =
      build_layers("conv:16x3,pad=1 bn relu maxpool:2 conv:24x3 relu flatten dropout:0.2 dense:4", image,
                   classes, LossKind::cross_entropy);
  Trained out;
  run_ranks(ranks, {}, [&](Communicator& comm) {
    TrainStepOptions options;
    options.slice_rows = rows;
    options.clip_norm = recipe.clip;
    options.optimizer.name = recipe.optimizer;
    if (recipe.optimizer == "sgd") options.optimizer.momentum = 0.9;
    options.optimizer.weight_decay = 0.01;
    options.sync.slices = slices;
    options.sync.sharded = recipe.sharded;
    options.sync.bucket_elements = 4096;
    options.sync.reduction = recipe.fast ? Reduction::fast : Reduction::ordered;
    options.device = test::step_device(resident, recipe.precision);
    LanePool lanes(1);
    auto step = std::make_unique<TrainStep>(graph, options, comm, lanes);
    initialise_model(graph, step->executor(), 3, step->parameters());
    comm.barrier();
    const Node mine = step->slices();
    std::vector<SliceResult> results(static_cast<std::size_t>(mine.size()));
    for (std::int64_t now = 0; now < 4; ++now) {
      if (interrupted && now == 2) {
        std::vector<float> parameters(step->parameters().begin(), step->parameters().end());
        std::vector<std::vector<float>> state;
        for (std::size_t s = 0; s < step->optimizer().state_names().size(); ++s)
          for (const Range& range : step->optimizer().shard()) {
            const auto part = std::as_const(step->optimizer()).state(s, range);
            state.emplace_back(part.begin(), part.end());
          }
        comm.barrier();
        step = std::make_unique<TrainStep>(graph, options, comm, lanes);
        std::copy(parameters.begin(), parameters.end(), step->parameters().begin());
        std::size_t next = 0;
        for (std::size_t s = 0; s < step->optimizer().state_names().size(); ++s)
          for (const Range& range : step->optimizer().shard()) {
            const auto part = step->optimizer().state(s, range);
            std::copy(state[next].begin(), state[next].end(), part.begin());
            ++next;
          }
        comm.barrier();
      }
      std::vector<std::vector<float>> inputs;
      std::vector<std::vector<std::int32_t>> labels;
      std::vector<std::vector<std::int64_t>> samples;
      std::vector<SliceBatch> batches;
      for (std::int64_t s = mine.begin; s < mine.end; ++s) {
        inputs.emplace_back();
        for (std::int64_t i = 0; i < rows * image.elements(); ++i)
          inputs.back().push_back(std::sin(static_cast<float>(i * 7 + s * 31 + now * 101)));
        if (now == recipe.bad_label_step && s == slices - 1)
          inputs.back()[0] = std::numeric_limits<float>::infinity();
        labels.emplace_back();
        samples.emplace_back();
        for (std::int64_t r = 0; r < rows; ++r) {
          labels.back().push_back(static_cast<std::int32_t>((r + s + now) % classes));
          samples.back().push_back(now * slices * rows + s * rows + r);
        }
      }
      for (std::int64_t s = mine.begin; s < mine.end; ++s) {
        const auto i = static_cast<std::size_t>(s - mine.begin);
        batches.push_back({s, rows, rows, samples[i], inputs[i], labels[i], {}});
      }
      const StepOutcome outcome = step->run(batches, slices * rows, now, 0.05, results);
      if (comm.rank() == 0) out.faults.push_back(outcome.fault);
      if (comm.rank() == 0) out.losses.push_back(results[0].loss);
    }
    const auto state = gather_optimizer_state(comm, step->executor(), step->optimizer());
    comm.barrier();
    if (comm.rank() == 0) {
      const auto p = step->parameters();
      out.parameters.assign(p.begin(), p.end());
      for (const PlainTensor& t : state) out.state.insert(out.state.end(), t.data.begin(), t.data.end());
    }
    comm.barrier();
  });
  return out;
}

class DeviceStepTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string missing = test::step_device_missing(); !missing.empty())
      LOCKSTEP_SKIP_WITHOUT("gpu", missing);
  }
};

void expect_same(const Trained& a, const Trained& b, const std::string& what) {
  ASSERT_EQ(a.parameters.size(), b.parameters.size()) << what;
  EXPECT_EQ(0, std::memcmp(a.parameters.data(), b.parameters.data(), a.parameters.size() * sizeof(float)))
      << what;
  EXPECT_EQ(a.state, b.state) << what;
  EXPECT_EQ(a.losses, b.losses) << what;
  EXPECT_EQ(a.faults, b.faults) << what;
  for (const float p : a.parameters) ASSERT_TRUE(std::isfinite(p)) << what;
}

TEST_F(DeviceStepTest, GivesTheBitsOfHostMemoryOnAnyNumberOfRanks) {
  for (const Recipe& recipe :
       {Recipe{"sgd", 0, true}, Recipe{"sgd", 0.2, false}, Recipe{"adamw", 0.3, true}}) {
    const Trained wanted = train(1, false, recipe);
    EXPECT_FALSE(wanted.state.empty());
    for (int ranks = 1; ranks <= 4; ++ranks)
      expect_same(train(ranks, true, recipe), wanted, recipe.optimizer + " on " + std::to_string(ranks));
  }
}

TEST_F(DeviceStepTest, ParametersAndStateCanBeTakenOutAndPutBack) {
  const Recipe recipe{"adam", 0.3, true};
  const Trained wanted = train(1, true, recipe);
  expect_same(train(1, true, recipe, true), wanted, "one rank");
  expect_same(train(3, true, recipe, true), wanted, "three ranks");
}

TEST_F(DeviceStepTest, ANonFiniteStepIsSkippedByAllRanks) {
  Recipe recipe{"sgd", 0, true};
  recipe.bad_label_step = 2;
  const Trained wanted = train(1, false, recipe);
  EXPECT_EQ(wanted.faults, (std::vector<StepFault>{StepFault::none, StepFault::none, StepFault::nonfinite,
                                                   StepFault::none}));
  for (int ranks = 1; ranks <= 3; ++ranks) {
    const Trained got = train(ranks, true, recipe);
    EXPECT_EQ(got.faults, wanted.faults) << ranks;
    EXPECT_EQ(got.parameters, wanted.parameters) << ranks;
  }
  recipe.fast = true;
  EXPECT_EQ(train(3, true, recipe).faults, wanted.faults);
}

TEST_F(DeviceStepTest, SixteenBitsKeepTheBitsAtAnyPlacementToo) {
  for (const cuda::Precision precision : {cuda::Precision::bf16, cuda::Precision::fp16}) {
    Recipe recipe{"sgd", 0, true};
    recipe.precision = precision;
    const Trained wanted = train(1, false, recipe);
    expect_same(train(3, true, recipe), wanted, "three ranks");
    expect_same(train(2, false, recipe), wanted, "two ranks in host memory");
  }
}

}  // namespace
}  // namespace lockstep
