#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "comm/threads/thread_communicator.h"
#include "core/error.h"
#include "device/lane_pool.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/make_batch.h"
#include "trainer/step/late_device.h"
#include "trainer/step/model_state.h"
#include "trainer/step/step_device.h"
#include "trainer/step/train_step.h"

// Trainings whose steps are enqueued one behind the other, for tests.

namespace lockstep::test {

inline constexpr std::int64_t rows = 2, classes = 3, epoch = 3;
inline const Shape image{1, 6, 6};

struct Recipe {
  int ranks = 1;
  std::int64_t slices = 3;
  bool sharded = true;
  double clip = 0;
  std::string optimizer = "adam";
  bool watched = true;
  std::int64_t steps = 7;
  std::int64_t bad_step = -1;  ///< an input of its last slice is not a number
  bool interrupted = false;    ///< state is taken out after four steps and put into a new TrainStep
  bool reloaded = false;       ///< the same into this one, where others had been put
  bool half = false;           ///< in float16, so that the loss is scaled
  LossScale scale = {};        ///< that it begins with
  std::vector<std::int64_t> bad_inputs = {};  ///< steps as bad_step, which a smaller scale is tried for

  bool is_bad(std::int64_t step) const {
    return step == bad_step || std::count(bad_inputs.begin(), bad_inputs.end(), step) > 0;
  }
  cuda::Precision precision() const { return half ? cuda::Precision::fp16 : cuda::Precision::fp32; }
};

/// How it is computed, which must not show.
struct Manner {
  bool late = true;
  LateStreams::Order order = LateStreams::Order::at_random;
  unsigned seed = 1;
  int in_flight = 1;
  bool graphs = false;
};

struct Trained {
  std::vector<float> parameters, state;
  std::vector<double> losses;  ///< of rank 0's first slice, by step
  std::vector<double> norms;
  std::vector<StepFault> faults;
  LossScale scale;  ///< at the end
  std::string error;
  std::int64_t taken = 0;           ///< the steps of which outcomes came
  std::vector<std::int64_t> waits;  ///< of the host for all that is enqueued, after each step's enqueue()
  std::vector<std::vector<float>> totals;  ///< of a refused step that was computed again, by rank
  std::int64_t captures = 0, launches = 0;
};

/// Every third batch has a sample less, and leaves the last slice without any.
struct StepData {
  std::vector<std::vector<float>> inputs;
  std::vector<std::vector<std::int32_t>> labels;
  std::vector<std::vector<std::int64_t>> samples;
  std::vector<Batch> slices;
  std::int64_t count = 0;
};
inline StepData batch_of(const Recipe& recipe, Node mine, std::int64_t step) {
  StepData b;
  std::vector<std::int64_t> valids;
  const bool uneven = step % epoch == epoch - 1 && !recipe.is_bad(step);
  for (std::int64_t s = 0; s < recipe.slices; ++s) {
    const std::int64_t valid = !uneven || s + 2 < recipe.slices               ? rows
                               : s + 2 == recipe.slices || recipe.slices == 1 ? rows - 1
                                                                              : 0;
    b.count += valid;
    if (s < mine.begin || s >= mine.end) continue;
    b.inputs.emplace_back(static_cast<std::size_t>(rows * image.elements()), 0.0f);
    b.labels.emplace_back(static_cast<std::size_t>(rows), 0);
    b.samples.emplace_back(static_cast<std::size_t>(rows), -1);
    for (std::int64_t i = 0; i < valid * image.elements(); ++i)
      b.inputs.back()[static_cast<std::size_t>(i)] =
          std::sin(static_cast<float>(i * 7 + s * 31 + step * 101));
    for (std::int64_t r = 0; r < valid; ++r) {
      b.labels.back()[static_cast<std::size_t>(r)] = static_cast<std::int32_t>((r + s + step) % classes);
      b.samples.back()[static_cast<std::size_t>(r)] = (step * recipe.slices + s) * rows + r;
    }
    if (recipe.is_bad(step) && s == recipe.slices - 1)
      b.inputs.back()[3] = std::numeric_limits<float>::quiet_NaN();
    valids.push_back(valid);
  }
  for (std::size_t i = 0; i < valids.size(); ++i)
    b.slices.push_back(test::make_batch(mine.begin + static_cast<std::int64_t>(i), rows, valids[i],
                                        b.samples[i], b.inputs[i], b.labels[i]));
  return b;
}

inline double lr_of(std::int64_t step) {
  return 0.01 / static_cast<double>(1 + step % 4);
}

struct State {
  std::vector<float> parameters;
  std::vector<std::vector<float>> moments;
  LossScale scale;
};
inline State take_out(TrainStep& step) {
  State out;
  out.parameters.assign(step.parameters().begin(), step.parameters().end());
  out.scale = step.loss_scale();
  for (std::size_t s = 0; s < step.optimizer().state_names().size(); ++s)
    for (const Range& range : step.optimizer().shard()) {
      const auto part = std::as_const(step.optimizer()).state(s, range);
      out.moments.emplace_back(part.begin(), part.end());
    }
  return out;
}
inline void put_in(TrainStep& step, const State& state) {
  std::copy(state.parameters.begin(), state.parameters.end(), step.writable_parameters().begin());
  step.set_loss_scale(state.scale);
  std::size_t next = 0;
  for (std::size_t s = 0; s < step.optimizer().state_names().size(); ++s)
    for (const Range& range : step.optimizer().shard()) {
      const auto part = step.writable_optimizer().state(s, range);
      std::copy(state.moments[next].begin(), state.moments[next].end(), part.begin());
      ++next;
    }
}

inline Trained train(const Recipe& recipe, const Manner& manner) {
  const Graph graph =
      build_layers("conv:16x3,pad=1 bn relu maxpool:2 flatten dropout:0.2 dense:40 relu dense:3", image,
                   classes, CrossEntropyAttrs{});
  Trained out;
  out.totals.resize(static_cast<std::size_t>(recipe.ranks));
  std::mutex mutex;
  run_ranks(recipe.ranks, {}, [&](Communicator& comm) {
    const auto streams =
        std::make_shared<LateStreams>(manner.order, manner.seed + static_cast<unsigned>(comm.rank()));
    TrainStepOptions options;
    options.slice_rows = rows;
    options.clip_norm = recipe.clip;
    options.optimizer.name = recipe.optimizer;
    if (recipe.optimizer == "sgd") options.optimizer.momentum = 0.9;
    options.optimizer.weight_decay = 0.01;
    options.sync.slices = recipe.slices;
    options.sync.sharded = recipe.sharded;
    options.sync.bucket_elements = 4096;
    options.device = manner.late ? late_device(streams, manner.graphs, recipe.precision())
                                 : step_device(false, recipe.precision());
    options.watch_gradient = recipe.watched;
    options.in_flight = manner.in_flight;
    LanePool lanes(1);
    auto step = make_train_step(graph, options, comm, lanes);
    EXPECT_EQ(step->most_in_flight(), manner.late ? manner.in_flight : 1);
    initialise_model(graph, step->executor(), 3, step->writable_parameters());
    step->set_loss_scale(recipe.scale);
    comm.barrier();
    const Node mine = step->slices();
    const bool leader = comm.rank() == 0;
    bool over = false;
    const auto settle = [&](std::int64_t enqueued) {
      for (const SettledStep& settled : step->settle()) {
        EXPECT_EQ(settled.results.size(), static_cast<std::size_t>(mine.size()));
        if (settled.outcome.fault == StepFault::none) {
          EXPECT_GT(settled.times.step, 0);
          EXPECT_GE(settled.times.step * (1 + 1e-9), settled.times.compute + settled.times.wait);
        } else if (settled.outcome.fault == StepFault::overflow) {
          EXPECT_TRUE(recipe.half);
        } else {
          EXPECT_EQ(settled.step, recipe.bad_step);
          over = true;
          if (settled.step < enqueued) {
            const StepData again = batch_of(recipe, mine, settled.step);
            step->compute_again(again.slices, again.count, settled.step);
          }
          for (const TotalView& view : step->totals())
            for (std::int64_t i = 0; i < view.range.size(); ++i)
              out.totals[static_cast<std::size_t>(comm.rank())].push_back(view.data[i]);
        }
        if (!leader) continue;
        EXPECT_EQ(settled.step, out.taken++);
        EXPECT_EQ(settled.outcome.lr, lr_of(settled.step));
        // Of what is not a number the bits say nothing.
        const double loss = settled.results[0].loss;
        out.losses.push_back(std::isnan(loss) ? std::numeric_limits<double>::quiet_NaN() : loss);
        out.norms.push_back(settled.outcome.gradient_norm);
        out.faults.push_back(settled.outcome.fault);
      }
    };
    try {
      for (std::int64_t now = 0; now < recipe.steps && !over; ++now) {
        if (recipe.interrupted && now == 4) {
          settle(now - 1);
          const State state = take_out(*step);
          comm.barrier();
          step = make_train_step(graph, options, comm, lanes);
          put_in(*step, state);
          comm.barrier();
        }
        if (recipe.reloaded && now == 4) {
          settle(now - 1);
          const State state = take_out(*step);
          State other = state;
          for (float& p : other.parameters) p += 1;
          for (auto& moment : other.moments) std::fill(moment.begin(), moment.end(), 0.5f);
          other.scale = {4, 7, 1};
          comm.barrier();
          put_in(*step, other);
          const StepData batch = batch_of(recipe, mine, 1);
          step->enqueue(batch.slices, batch.count, 1, 0.1);
          step->settle();
          comm.barrier();
          put_in(*step, state);
        }
        {
          const StepData batch = batch_of(recipe, mine, now);
          const std::int64_t before = streams->finishes;
          step->enqueue(batch.slices, batch.count, now, lr_of(now));
          if (leader) out.waits.push_back(streams->finishes - before);
        }  // what the batch lay in is gone
        if (step->full() || now + 1 == recipe.steps) {
          const std::int64_t before = streams->finishes;
          settle(now);
          if (leader && !over) out.waits.back() += streams->finishes - before;
        }
      }
    } catch (const DivergenceError& e) {
      const std::scoped_lock lock(mutex);
      EXPECT_TRUE(out.error.empty() || out.error == e.what()) << e.what();
      out.error = e.what();
    }
    comm.barrier();
    const auto state = gather_optimizer_state(comm, step->executor(), step->optimizer());
    comm.barrier();
    if (leader) {
      const auto p = step->parameters();
      out.parameters.assign(p.begin(), p.end());
      for (const PlainTensor& t : state) out.state.insert(out.state.end(), t.data.begin(), t.data.end());
      out.scale = step->loss_scale();
      out.captures = streams->captures;
      out.launches = streams->launches;
    }
    comm.barrier();
  });
  return out;
}

inline void expect_same(const Trained& a, const Trained& b, const std::string& what) {
  ASSERT_EQ(a.parameters.size(), b.parameters.size()) << what;
  EXPECT_EQ(0, std::memcmp(a.parameters.data(), b.parameters.data(), a.parameters.size() * sizeof(float)))
      << what;
  EXPECT_EQ(a.state, b.state) << what;
  ASSERT_EQ(a.losses.size(), b.losses.size()) << what;
  EXPECT_EQ(0, std::memcmp(a.losses.data(), b.losses.data(), a.losses.size() * sizeof(double))) << what;
  EXPECT_EQ(a.norms, b.norms) << what;
  EXPECT_EQ(a.faults, b.faults) << what;
  EXPECT_EQ(a.scale, b.scale) << what << ": " << a.scale.scale << " " << a.scale.good_steps << " "
                              << a.scale.skipped;
  EXPECT_EQ(a.error, b.error) << what;
  for (const float p : a.parameters) ASSERT_TRUE(std::isfinite(p)) << what;
}

}  // namespace lockstep::test
