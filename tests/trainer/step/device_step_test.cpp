// Training steps whose flat buffers lie on a device, with the host in the part of the GPU: the same bits as
// with all of it in host memory, whatever the ranks; and nobody sees old parameters or optimizer state.

#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>
#include <memory>
#include <mutex>

#include "comm/threads/thread_communicator.h"
#include "core/error.h"
#include "device/lane_pool.h"
#include "model/graph/freeze.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/make_batch.h"
#include "support/process.h"
#include "trainer/step/model_state.h"
#include "trainer/step/step_device.h"
#include "trainer/step/train_step.h"

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
  std::int64_t bad_input_step = -1;     ///< an input of this step is infinite, in the last slice
  std::int64_t bad_gradient_step = -1;  ///< a gradient of this step is infinite, in the last slice
  bool washed = false;                  ///< what a slice's gradient has that is not finite becomes 0
  bool watched = true;
  bool asked = false;  ///< before_update is set, and agrees
  int in_flight = 1;   ///< where the device can
  int steps = 4;
  std::string groups = {};
  std::string freeze = {};
};

struct Trained {
  std::vector<float> parameters;
  std::vector<float> state;
  std::vector<double> losses;
  std::vector<StepFault> faults;
  std::vector<double> norms;
  std::vector<float> scales;  ///< of the loss, after each step
  std::string error;          ///< of a step that ended the training
};

/// Four steps; with `interrupted`, parameters and state are taken out after two and put into a new step.
Trained train(int ranks, bool resident, const Recipe& recipe, bool interrupted = false) {
  Graph graph = build_layers("conv:16x3,pad=1 bn relu maxpool:2 conv:24x3 relu flatten dropout:0.2 dense:4",
                             image, classes, CrossEntropyAttrs{});
  freeze_parameters(graph, recipe.freeze);
  Trained out;
  std::mutex mutex;
  std::vector<std::vector<StepFault>> faults(static_cast<std::size_t>(ranks));
  run_ranks(ranks, {}, [&](Communicator& comm) {
    TrainStepOptions options;
    options.slice_rows = rows;
    options.clip_norm = recipe.clip;
    options.optimizer.name = recipe.optimizer;
    if (recipe.optimizer == "sgd") options.optimizer.momentum = 0.9;
    options.optimizer.weight_decay = 0.01;
    options.optimizer.groups = recipe.groups;
    options.sync.slices = slices;
    options.sync.sharded = recipe.sharded;
    options.sync.bucket_elements = 4096;
    options.sync.reduction = recipe.fast ? Reduction::fast : Reduction::ordered;
    options.device = test::step_device(resident, recipe.precision, ranks);
    options.in_flight = recipe.in_flight;
    options.watch_gradient = recipe.watched;
    if (recipe.asked) options.before_update = [](std::span<const SliceResult>) { return true; };
    std::int64_t now = 0;
    if (recipe.washed || recipe.bad_gradient_step >= 0)
      options.after_slice = [&](std::int64_t slice, Range range, std::span<float> gradient) {
        if (recipe.washed)
          for (float& g : gradient) g = std::isfinite(g) ? g : 0.0f;
        if (now == recipe.bad_gradient_step && slice == slices - 1 && range.begin == 0)
          gradient[1] = std::numeric_limits<float>::infinity();
      };
    LanePool lanes(1);
    auto step = make_train_step(graph, options, comm, lanes);
    initialise_model(graph, step->executor(), 3, step->writable_parameters());
    comm.barrier();
    const Node mine = step->slices();
    for (; now < recipe.steps; ++now) {
      if (interrupted && now == 2) {
        std::vector<float> parameters(step->parameters().begin(), step->parameters().end());
        std::vector<std::vector<float>> state;
        for (std::size_t s = 0; s < step->optimizer().state_names().size(); ++s)
          for (const Range& range : step->optimizer().shard()) {
            const auto part = std::as_const(step->optimizer()).state(s, range);
            state.emplace_back(part.begin(), part.end());
          }
        const LossScale scale = step->loss_scale();
        comm.barrier();
        step = make_train_step(graph, options, comm, lanes);
        step->set_loss_scale(scale);
        std::copy(parameters.begin(), parameters.end(), step->writable_parameters().begin());
        std::size_t next = 0;
        for (std::size_t s = 0; s < step->optimizer().state_names().size(); ++s)
          for (const Range& range : step->optimizer().shard()) {
            const auto part = step->writable_optimizer().state(s, range);
            std::copy(state[next].begin(), state[next].end(), part.begin());
            ++next;
          }
        comm.barrier();
      }
      std::vector<std::vector<float>> inputs;
      std::vector<std::vector<std::int32_t>> labels;
      std::vector<std::vector<std::int64_t>> samples;
      std::vector<Batch> batches;
      for (std::int64_t s = mine.begin; s < mine.end; ++s) {
        inputs.emplace_back();
        for (std::int64_t i = 0; i < rows * image.elements(); ++i)
          inputs.back().push_back(std::sin(static_cast<float>(i * 7 + s * 31 + now * 101)));
        if (now == recipe.bad_input_step && s == slices - 1)
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
        batches.push_back(test::make_batch(s, rows, rows, samples[i], inputs[i], labels[i]));
      }
      std::vector<StepOutcome> outcomes;
      std::vector<double> losses;
      try {
        step->enqueue(batches, slices * rows, now, 0.05);
        if (step->full() || now == recipe.steps - 1 || (interrupted && now == 1))
          for (const SettledStep& settled : step->settle()) {
            outcomes.push_back(settled.outcome);
            losses.push_back(settled.results[0].loss);
          }
      } catch (const DivergenceError& e) {
        const std::scoped_lock lock(mutex);
        EXPECT_TRUE(out.error.empty() || out.error == e.what()) << e.what();
        out.error = e.what();
        break;
      }
      for (std::size_t i = 0; i < outcomes.size(); ++i) {
        faults[static_cast<std::size_t>(comm.rank())].push_back(outcomes[i].fault);
        if (comm.rank() != 0) continue;
        out.norms.push_back(outcomes[i].gradient_norm);
        out.scales.push_back(step->loss_scale().scale);
        out.losses.push_back(losses[i]);
      }
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
  out.faults = faults[0];
  for (const auto& others : faults) EXPECT_EQ(others, faults[0]) << "ranks do not skip alike";
  return out;
}

std::vector<StepFault> only_third(StepFault fault) {
  return {StepFault::none, StepFault::none, fault, StepFault::none};
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
  ASSERT_EQ(a.losses.size(), b.losses.size()) << what;
  EXPECT_EQ(0, std::memcmp(a.losses.data(), b.losses.data(), a.losses.size() * sizeof(double))) << what;
  EXPECT_EQ(a.faults, b.faults) << what;
  EXPECT_EQ(a.norms, b.norms) << what;
  EXPECT_EQ(a.scales, b.scales) << what;
  EXPECT_EQ(a.error, b.error) << what;
  for (const float p : a.parameters) ASSERT_TRUE(std::isfinite(p)) << what;
}

Recipe grouped(Recipe recipe) {
  recipe.groups = "*.bias: decay=0, lr=2x; conv1.*: lr=0.1x";
  return recipe;
}
/// The first layer, below which nothing is trained, one norm's weight and one bias.
Recipe frozen(Recipe recipe) {
  recipe.freeze = "conv1.*, bn1.weight, dense1.bias";
  return recipe;
}

TEST_F(DeviceStepTest, GivesTheBitsOfHostMemoryOnAnyNumberOfRanks) {
  for (const Recipe& recipe :
       {Recipe{"sgd", 0, true}, Recipe{"adam", 0, false}, Recipe{"sgd", 0.2, false}, Recipe{"sgd", 0.2, true},
        Recipe{"adamw", 0.3, true}, Recipe{"sgd", 1e6, true}, Recipe{"rmsprop", 0.3, true},
        Recipe{"lion", 0, true}, Recipe{"lars", 0.2, true}, Recipe{"lamb", 0, true},
        Recipe{"lamb", 0.3, false}, grouped(Recipe{"adamw", 0, true}), frozen(Recipe{"adamw", 0.2, true}),
        frozen(Recipe{"lamb", 0, true})}) {
    const Trained wanted = train(1, false, recipe);
    for (const double norm : wanted.norms) EXPECT_EQ(norm >= 0, recipe.clip > 0);
    EXPECT_FALSE(wanted.state.empty());
    for (int ranks = 1; ranks <= 4; ++ranks)
      expect_same(train(ranks, true, recipe), wanted, recipe.optimizer + " on " + std::to_string(ranks));
    // Where the host is asked before the update, and without a watch, it is the same training.
    Recipe other = recipe;
    other.asked = true;
    expect_same(train(3, true, other), wanted, recipe.optimizer + ", asked");
    other.asked = other.watched = false;
    expect_same(train(3, true, other), wanted, recipe.optimizer + ", not watched");
  }
}

// What is frozen stays as it was drawn; in the first step all else moves as without freezing, also where
// nothing below it is computed.
TEST_F(DeviceStepTest, WhatIsFrozenStaysAndTheRestMovesAsEver) {
  Recipe recipe{"adamw", 0, true};
  recipe.steps = 0;
  const Trained drawn = train(1, false, recipe);
  recipe.steps = 1;
  const Trained whole = train(1, false, recipe);
  const Trained part = train(2, true, frozen(recipe));
  ASSERT_EQ(part.parameters.size(), whole.parameters.size());
  std::size_t kept = 0;
  for (std::size_t e = 0; e < whole.parameters.size(); ++e) {
    if (part.parameters[e] == whole.parameters[e]) continue;
    ASSERT_EQ(part.parameters[e], drawn.parameters[e]) << e;
    ++kept;
  }
  // conv1 has 16x2x3x3 and 16, bn1's weight 16, dense1's bias 4 numbers. Some gradients are zero.
  EXPECT_GT(kept, 200u);
  EXPECT_LE(kept, 16u * 18 + 16 + 16 + 4);
  EXPECT_EQ(whole.state.size() - part.state.size(), 2u * (16 * 18 + 16 + 16 + 4));
}

// On a GPU, and one rank: enqueued one behind the other, and captured from the third on.
TEST_F(DeviceStepTest, StepsInFlightGiveTheSameBits) {
  for (const double clip : {0.0, 0.2})
    for (const bool half : {false, true}) {
      Recipe recipe{"adam", clip};
      if (half) {
        recipe.precision = cuda::Precision::fp16;
        recipe.bad_input_step = 1;
      }
      Trained wanted = train(1, false, recipe);
      EXPECT_EQ(wanted.faults[1], half ? StepFault::overflow : StepFault::none);
      const auto check = [&](Trained found, const std::string& what) {
        // After each step the scale is known only to those who ask.
        ASSERT_EQ(found.scales.size(), 4u);
        EXPECT_EQ(found.scales.back(), wanted.scales.back()) << what;
        found.scales = wanted.scales;
        expect_same(found, wanted, what);
      };
      for (const int in_flight : {2, 4}) {
        recipe.in_flight = in_flight;
        check(train(1, true, recipe), std::to_string(in_flight) + " in flight");
        check(train(1, true, recipe, true), std::to_string(in_flight) + ", interrupted");
      }
    }
}

TEST_F(DeviceStepTest, ParametersAndStateCanBeTakenOutAndPutBack) {
  const Recipe recipe{"adam", 0.3, true};
  const Trained wanted = train(1, true, recipe);
  expect_same(train(1, true, recipe, true), wanted, "one rank");
  expect_same(train(3, true, recipe, true), wanted, "three ranks");
}

TEST_F(DeviceStepTest, ANonFiniteStepIsSkippedByAllRanks) {
  for (const double clip : {0.0, 0.2})
    for (const bool sharded : {true, false}) {
      Recipe recipe{"sgd", clip, sharded};
      recipe.bad_input_step = 2;
      const Trained wanted = train(1, false, recipe);
      EXPECT_EQ(wanted.faults, only_third(StepFault::nonfinite));
      for (int ranks = 1; ranks <= 4; ++ranks)
        expect_same(train(ranks, true, recipe), wanted, std::to_string(ranks) + " ranks");
      recipe.asked = true;
      expect_same(train(3, true, recipe), wanted, "asked");
    }
  Recipe fast{"sgd"};
  fast.bad_input_step = 2;
  fast.fast = true;
  EXPECT_EQ(train(3, true, fast).faults, only_third(StepFault::nonfinite));
}

TEST_F(DeviceStepTest, ABadGradientOfOneRankKeepsAllFromTheUpdate) {
  for (const double clip : {0.0, 0.2}) {
    Recipe recipe{"adamw", clip};
    recipe.bad_gradient_step = 2;
    const Trained wanted = train(1, false, recipe);
    EXPECT_EQ(wanted.faults, only_third(StepFault::nonfinite));
    for (int ranks = 1; ranks <= 4; ++ranks)
      expect_same(train(ranks, true, recipe), wanted, std::to_string(ranks) + " ranks");
  }
}

TEST_F(DeviceStepTest, ALossThatIsNotFiniteCountsWhereTheGradientIs) {
  for (const double clip : {0.0, 0.2}) {
    Recipe recipe{"sgd", clip};
    recipe.bad_input_step = 2;
    recipe.washed = true;
    const Trained wanted = train(1, false, recipe);
    EXPECT_EQ(wanted.faults, only_third(StepFault::nonfinite));
    for (int ranks = 1; ranks <= 4; ++ranks)
      expect_same(train(ranks, true, recipe), wanted, std::to_string(ranks) + " ranks");
  }
}

TEST_F(DeviceStepTest, WhatDivergesWithoutAWatchEndsTheTrainingBeforeTheUpdate) {
  Recipe recipe{"sgd", 0.2};
  recipe.bad_gradient_step = 2;
  recipe.watched = false;
  const Trained wanted = train(1, false, recipe);
  EXPECT_EQ(wanted.error.find("step 2: the gradient norm is infinite"), 0u) << wanted.error;
  EXPECT_EQ(wanted.faults.size(), 2u);
  for (int ranks = 1; ranks <= 4; ++ranks)
    expect_same(train(ranks, true, recipe), wanted, std::to_string(ranks) + " ranks");
}

TEST_F(DeviceStepTest, AnOverflowIsSkippedAndHalvesTheScale) {
  for (const double clip : {0.0, 0.2}) {
    Recipe recipe{"adam", clip};
    recipe.precision = cuda::Precision::fp16;
    recipe.bad_gradient_step = 2;
    const Trained wanted = train(1, false, recipe);
    EXPECT_EQ(wanted.faults, only_third(StepFault::overflow));
    EXPECT_EQ(wanted.scales, (std::vector<float>{65536, 65536, 32768, 32768}));
    for (const int ranks : {1, 3})
      for (const bool watched : {true, false}) {
        recipe.watched = watched;
        expect_same(train(ranks, true, recipe), wanted, std::to_string(ranks) + " ranks");
      }
  }
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
