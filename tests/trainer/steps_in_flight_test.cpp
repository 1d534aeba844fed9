// Training steps that are enqueued one behind the other, on a device that carries out what it was told as
// late, as early and in as odd an order as its streams and events allow: the same bits as step by step, and
// as in host memory; and a step that is refused takes back all that were enqueued behind it.

#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "comm/thread_communicator.h"
#include "core/error.h"
#include "device/lane_pool.h"
#include "model/layers_line.h"
#include "trainer/late_device.h"
#include "trainer/model_state.h"
#include "trainer/step_device.h"
#include "trainer/train_step.h"

namespace lockstep {
namespace {

using test::LateStreams;

constexpr std::int64_t rows = 2, classes = 3, epoch = 3;
const Shape image{1, 6, 6};

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
  std::string error;
  std::int64_t taken = 0;           ///< the steps of which outcomes came
  std::vector<std::int64_t> waits;  ///< of the host for all that is enqueued, after each step's enqueue()
  std::vector<std::vector<float>> totals;  ///< of a refused step that was computed again, by rank
  std::int64_t captures = 0, launches = 0;
};

/// Every third batch has a sample less, and leaves the last slice without any.
struct Batch {
  std::vector<std::vector<float>> inputs;
  std::vector<std::vector<std::int32_t>> labels;
  std::vector<std::vector<std::int64_t>> samples;
  std::vector<SliceBatch> slices;
  std::int64_t count = 0;
};
Batch batch_of(const Recipe& recipe, Node mine, std::int64_t step) {
  Batch b;
  const bool uneven = step % epoch == epoch - 1 && step != recipe.bad_step;
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
    if (step == recipe.bad_step && s == recipe.slices - 1)
      b.inputs.back()[3] = std::numeric_limits<float>::quiet_NaN();
    b.slices.push_back({s, rows, valid, {}, {}, {}, {}});
  }
  for (std::size_t i = 0; i < b.slices.size(); ++i) {
    b.slices[i].samples = b.samples[i];
    b.slices[i].input = b.inputs[i];
    b.slices[i].labels = b.labels[i];
  }
  return b;
}

double lr_of(std::int64_t step) {
  return 0.01 / static_cast<double>(1 + step % 4);
}

struct State {
  std::vector<float> parameters;
  std::vector<std::vector<float>> moments;
};
State take_out(TrainStep& step) {
  State out;
  out.parameters.assign(step.parameters().begin(), step.parameters().end());
  for (std::size_t s = 0; s < step.optimizer().state_names().size(); ++s)
    for (const Range& range : step.optimizer().shard()) {
      const auto part = std::as_const(step.optimizer()).state(s, range);
      out.moments.emplace_back(part.begin(), part.end());
    }
  return out;
}
void put_in(TrainStep& step, const State& state) {
  std::copy(state.parameters.begin(), state.parameters.end(), step.parameters().begin());
  std::size_t next = 0;
  for (std::size_t s = 0; s < step.optimizer().state_names().size(); ++s)
    for (const Range& range : step.optimizer().shard()) {
      const auto part = step.optimizer().state(s, range);
      std::copy(state.moments[next].begin(), state.moments[next].end(), part.begin());
      ++next;
    }
}

Trained train(const Recipe& recipe, const Manner& manner) {
  const Graph graph =
      build_layers("conv:16x3,pad=1 bn relu maxpool:2 flatten dropout:0.2 dense:40 relu dense:3", image,
                   classes, LossKind::cross_entropy);
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
    options.device = manner.late ? test::late_device(streams, manner.graphs)
                                 : test::step_device(false, cuda::Precision::fp32);
    options.watch_gradient = recipe.watched;
    options.in_flight = manner.in_flight;
    LanePool lanes(1);
    auto step = std::make_unique<TrainStep>(graph, options, comm, lanes);
    EXPECT_EQ(step->most_in_flight(), manner.late ? manner.in_flight : 1);
    initialise_model(graph, step->executor(), 3, step->parameters());
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
        } else {
          EXPECT_EQ(settled.step, recipe.bad_step);
          over = true;
          if (settled.step < enqueued) {
            const Batch again = batch_of(recipe, mine, settled.step);
            step->compute_again(again.slices, again.count, settled.step);
          }
          for (const TotalView& view : step->totals())
            for (std::int64_t i = 0; i < view.range.size(); ++i)
              out.totals[static_cast<std::size_t>(comm.rank())].push_back(view.data[i]);
        }
        if (!leader) continue;
        EXPECT_EQ(settled.step, out.taken++);
        EXPECT_EQ(settled.outcome.lr, lr_of(settled.step));
        out.losses.push_back(settled.results[0].loss);
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
          step = std::make_unique<TrainStep>(graph, options, comm, lanes);
          put_in(*step, state);
          comm.barrier();
        }
        if (recipe.reloaded && now == 4) {
          settle(now - 1);
          const State state = take_out(*step);
          State other = state;
          for (float& p : other.parameters) p += 1;
          for (auto& moment : other.moments) std::fill(moment.begin(), moment.end(), 0.5f);
          comm.barrier();
          put_in(*step, other);
          const Batch batch = batch_of(recipe, mine, 1);
          step->enqueue(batch.slices, batch.count, 1, 0.1);
          step->settle();
          comm.barrier();
          put_in(*step, state);
        }
        {
          const Batch batch = batch_of(recipe, mine, now);
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
      out.captures = streams->captures;
      out.launches = streams->launches;
    }
    comm.barrier();
  });
  return out;
}

void expect_same(const Trained& a, const Trained& b, const std::string& what) {
  ASSERT_EQ(a.parameters.size(), b.parameters.size()) << what;
  EXPECT_EQ(0, std::memcmp(a.parameters.data(), b.parameters.data(), a.parameters.size() * sizeof(float)))
      << what;
  EXPECT_EQ(a.state, b.state) << what;
  ASSERT_EQ(a.losses.size(), b.losses.size()) << what;
  EXPECT_EQ(0, std::memcmp(a.losses.data(), b.losses.data(), a.losses.size() * sizeof(double))) << what;
  EXPECT_EQ(a.norms, b.norms) << what;
  EXPECT_EQ(a.faults, b.faults) << what;
  EXPECT_EQ(a.error, b.error) << what;
  for (const float p : a.parameters) ASSERT_TRUE(std::isfinite(p)) << what;
}

constexpr LateStreams::Order orders[] = {LateStreams::Order::at_random, LateStreams::Order::uploads_first,
                                         LateStreams::Order::uploads_last};

std::vector<Recipe> recipes() {
  std::vector<Recipe> out;
  for (const int ranks : {1, 2, 3})
    for (const bool sharded : {true, false})
      for (const double clip : {0.0, 0.2}) {
        if (ranks == 1 && !sharded) continue;
        for (const std::int64_t slices : {3, 4}) out.push_back({ranks, slices, sharded, clip});
      }
  return out;
}

std::string name_of(const Recipe& r) {
  return std::to_string(r.ranks) + " ranks, " + std::to_string(r.slices) + " slices, sharded " +
         std::to_string(r.sharded) + ", clip " + std::to_string(r.clip);
}

TEST(StepsInFlight, GiveTheBitsOfStepsTakenOneByOneAndOfHostMemory) {
  for (Recipe recipe : recipes()) {
    Recipe alone = recipe;
    alone.ranks = 1;
    const Trained wanted = train(alone, {.late = false});
    EXPECT_EQ(wanted.taken, recipe.steps);
    expect_same(train(recipe, {.in_flight = 1}), wanted, name_of(recipe) + ", one by one");
    for (const LateStreams::Order order : orders)
      for (const int in_flight : {3, 16})
        expect_same(train(recipe, {.order = order, .seed = 5, .in_flight = in_flight}), wanted,
                    name_of(recipe) + ", " + std::to_string(in_flight) + " in flight");
  }
}

// One slice a rank: each step's input takes the other buffer.
TEST(StepsInFlight, TheirInputsDoNotGetInEachOthersWay) {
  for (const std::int64_t slices : {1, 2, 5}) {
    const Recipe recipe{1, slices, true, 0, "sgd", true, 12};
    const Trained wanted = train(recipe, {.late = false});
    for (const LateStreams::Order order : orders)
      for (unsigned seed = 1; seed <= 5; ++seed)
        expect_same(train(recipe, {.order = order, .seed = seed, .in_flight = 12}), wanted,
                    std::to_string(slices) + " slices");
  }
}

TEST(StepsInFlight, TheHostWaitsOnceForAllOfThem) {
  for (Recipe recipe : recipes())
    for (const bool watched : {true, false}) {
      recipe.steps = 11;
      recipe.watched = watched;
      Trained trained = train(recipe, {.in_flight = 4});
      ASSERT_EQ(trained.waits.size(), 11u);
      // The first brings the parameters and the state to the device, which is written and waited for.
      EXPECT_GT(trained.waits[0], 0);
      trained.waits[0] = 0;
      EXPECT_EQ(trained.waits, (std::vector<std::int64_t>{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1}))
          << name_of(recipe);
    }
}

TEST(StepsInFlight, ParametersAndStateCanBeTakenOutAndPutBack) {
  for (const int ranks : {1, 3}) {
    Recipe recipe{ranks, 3, true, 0.2};
    const Trained wanted = train({1, 3, true, 0.2}, {.late = false});
    recipe.interrupted = true;
    expect_same(train(recipe, {.in_flight = 3}), wanted, std::to_string(ranks));
  }
}

TEST(StepsInFlight, ARefusedOneLeavesEverythingAsItWasBefore) {
  for (Recipe recipe : recipes()) {
    recipe.bad_step = 3;
    Recipe alone = recipe;
    alone.ranks = 1;
    const Trained wanted = train(alone, {.late = false});
    EXPECT_EQ(wanted.faults, (std::vector<StepFault>{StepFault::none, StepFault::none, StepFault::none,
                                                     StepFault::nonfinite}));
    const Trained one_by_one = train(recipe, {.in_flight = 1});
    for (const auto& [in_flight, graphs] :
         {std::pair(1, false), {2, false}, {4, false}, {7, false}, {1, true}, {4, true}, {7, true}}) {
      const Trained found = train(recipe, {.in_flight = in_flight, .graphs = graphs});
      ASSERT_EQ(found.losses.size(), 4u);
      // Of the refused step itself, the loss may be any NaN.
      Trained a = found, b = wanted;
      if (std::isnan(a.losses.back()) && std::isnan(b.losses.back())) a.losses.back() = b.losses.back() = 0;
      expect_same(a, b, name_of(recipe) + ", " + std::to_string(in_flight) + " in flight");
      std::size_t seen = 0;
      // Its totals are its own, for those who look for the cause.
      for (std::size_t r = 0; r < found.totals.size(); ++r) {
        ASSERT_EQ(found.totals[r].size(), one_by_one.totals[r].size());
        seen += found.totals[r].size();
        EXPECT_EQ(0, std::memcmp(found.totals[r].data(), one_by_one.totals[r].data(),
                                 found.totals[r].size() * sizeof(float)))
            << name_of(recipe);
      }
      EXPECT_GE(seen, found.parameters.size());
    }
  }
}

TEST(StepsInFlight, WithoutAWatchTheRightStepIsNamed) {
  for (const int ranks : {1, 2, 3}) {
    Recipe recipe{ranks, 3, true, 0.2};
    recipe.bad_step = 3;
    recipe.watched = false;
    const Trained wanted = train({1, 3, true, 0.2, "adam", false, 7, 3}, {.late = false});
    EXPECT_EQ(wanted.error.find("step 3: the gradient norm is not a number"), 0u) << wanted.error;
    for (const int in_flight : {1, 2, 7}) {
      const Trained found = train(recipe, {.in_flight = in_flight});
      EXPECT_EQ(found.error, wanted.error);
      EXPECT_EQ(found.parameters, wanted.parameters);
      EXPECT_EQ(found.state, wanted.state);
    }
  }
}

// ---- The whole step as one captured piece, whose arguments are those of the step that was captured ----

TEST(WholeSteps, ReplayedTheyGiveTheBitsOfEnqueuedOnes) {
  for (const std::int64_t slices : {1, 2, 3, 4})
    for (const double clip : {0.0, 0.2})
      for (const bool watched : {true, false}) {
        // The rate changes with every step, and every third batch is uneven.
        const Recipe recipe{1, slices, true, clip, "adam", watched, 14};
        const Trained wanted = train(recipe, {.late = false});
        for (const LateStreams::Order order : orders)
          for (const int in_flight : {1, 3, 16}) {
            const Trained found = train(recipe, {.order = order, .in_flight = in_flight, .graphs = true});
            expect_same(found, wanted, std::to_string(slices) + " slices");
            // One graph for each set of input buffers; and a step is one launch, but where it is the first
            // with its buffers, or one of its slices is without a sample (steps 2, 5, 8 and 11 where there
            // are two).
            EXPECT_EQ(found.captures, 2);
            EXPECT_EQ(found.launches, 14 - 2 - (slices > 1 ? 4 : 0)) << slices;
          }
      }
}

TEST(WholeSteps, StateThatIsLoadedCounts) {
  for (const bool interrupted : {true, false}) {
    Recipe recipe{1, 3, true, 0.2, "adam", true, 12};
    const Trained wanted = train(recipe, {.late = false});
    (interrupted ? recipe.interrupted : recipe.reloaded) = true;
    for (const bool graphs : {true, false})
      expect_same(train(recipe, {.in_flight = 3, .graphs = graphs}), wanted, std::to_string(interrupted));
  }
}

TEST(WholeSteps, OnSeveralRanksPiecesAreCaptured) {
  for (const int ranks : {2, 3}) {
    const Recipe recipe{ranks, 4, true, 0.2, "adam", true, 10};
    const Trained wanted = train({1, 4, true, 0.2, "adam", true, 10}, {.late = false});
    const Trained found = train(recipe, {.in_flight = 4, .graphs = true});
    expect_same(found, wanted, std::to_string(ranks) + " ranks");
    EXPECT_GT(found.launches, 10);
  }
}

// After a refused step the caller may go on with the next batch.
TEST(StepsInFlight, TheDeviceGoesOnAfterARefusedOne) {
  const Graph graph =
      build_layers("conv:8x3,pad=1 bn relu flatten dense:3", image, classes, LossKind::cross_entropy);
  const auto parameters_after = [&](const std::vector<std::int64_t>& batches, int in_flight) {
    std::vector<float> out;
    run_ranks(1, {}, [&](Communicator& comm) {
      const auto streams = std::make_shared<LateStreams>(LateStreams::Order::at_random);
      const Recipe recipe{1, 2, true, 0, "sgd", true, 7, 3};
      TrainStepOptions options;
      options.slice_rows = rows;
      options.optimizer.name = "sgd";
      options.sync.slices = recipe.slices;
      options.device = test::late_device(streams);
      options.in_flight = in_flight;
      LanePool lanes(1);
      TrainStep step(graph, options, comm, lanes);
      initialise_model(graph, step.executor(), 3, step.parameters());
      std::int64_t taken = 0;
      for (std::size_t i = 0; i < batches.size();) {
        for (std::size_t j = i; j < batches.size() && !step.full(); ++j) {
          const Batch batch = batch_of(recipe, {0, 2}, batches[j]);
          step.enqueue(batch.slices, batch.count, batches[j], 0.1);
        }
        for (const SettledStep& settled : step.settle()) {
          EXPECT_EQ(settled.step, batches[i]);
          EXPECT_EQ(settled.outcome.fault, batches[i] == 3 ? StepFault::nonfinite : StepFault::none);
          ++i;
          ++taken;
        }
      }
      EXPECT_EQ(taken, static_cast<std::int64_t>(batches.size()));
      const auto p = step.parameters();
      out.assign(p.begin(), p.end());
    });
    return out;
  };
  const std::vector<float> wanted = parameters_after({0, 1, 4, 5, 6}, 1);
  for (const int in_flight : {1, 2, 4}) EXPECT_EQ(parameters_after({0, 1, 3, 4, 5, 6}, in_flight), wanted);
}

// Where the host is asked, or the next step needs to know of this one, there is one at a time.
TEST(StepsInFlight, NoneWhereTheNextStepNeedsTheOutcome) {
  const Graph graph = build_layers("flatten dense:3", image, classes, LossKind::cross_entropy);
  run_ranks(1, {}, [&](Communicator& comm) {
    const auto most = [&](auto change, Timeline* timeline = nullptr) {
      TrainStepOptions options;
      options.slice_rows = rows;
      options.optimizer.name = "sgd";
      options.in_flight = 8;
      options.device = test::late_device(std::make_shared<LateStreams>(LateStreams::Order::at_random));
      change(options);
      LanePool lanes(1);
      return TrainStep(graph, options, comm, lanes, timeline).most_in_flight();
    };
    EXPECT_EQ(most([](TrainStepOptions&) {}), 8);
    EXPECT_EQ(most([](TrainStepOptions& o) {
                o.before_update = [](std::span<const SliceResult>) { return true; };
              }),
              1);
    EXPECT_EQ(most([](TrainStepOptions& o) { o.device.scales_loss = true; }), 1);
    EXPECT_EQ(most([](TrainStepOptions& o) { o.device.only_enqueues = false; }), 1);
    EXPECT_EQ(most([](TrainStepOptions& o) { o.sync.reduction = Reduction::fast; }), 1);
    EXPECT_EQ(most([](TrainStepOptions& o) { o.device = {}; }), 1);
    Timeline timeline(100);
    EXPECT_EQ(most([](TrainStepOptions&) {}, &timeline), 1);
  });
}

}  // namespace
}  // namespace lockstep
