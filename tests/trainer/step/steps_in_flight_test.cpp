// Training steps that are enqueued one behind the other, on a device that carries out what it was told as
// late, as early and in as odd an order as its streams and events allow: the same bits as step by step, and
// as in host memory; and a step that is refused takes back all that were enqueued behind it.

#include "trainer/step/steps_in_flight.h"

#include "model/ops/loss/cross_entropy.h"

namespace lockstep::test {
namespace {

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
    for (const auto& [watched, half] : {std::pair(true, false), {false, false}, {true, true}}) {
      recipe.steps = 11;
      recipe.watched = watched;
      recipe.half = half;
      if (half) recipe.bad_inputs = {1, 6};
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

// ---- In float16: a step that overflows is skipped, and those behind it are taken with another scale ----

struct Overflows {
  Recipe recipe;
  std::string faults;  ///< an o where a step overflows
  LossScale last;
};
const Overflows overflows[] = {
    // From far too large a scale, which falls until the gradient fits.
    {{.steps = 11, .half = true, .scale = {16777216, 1999, 0}}, "oooooooo...", {65536, 3, 8}},
    // The scale rises after three good steps, and too far; later there are batches that no scale helps.
    {{.steps = 11, .half = true, .scale = {65536, 1997, 0}, .bad_inputs = {5, 6, 9}},
     "...o.oo..o.",
     {8192, 1, 4}},
    // It rises, and stays.
    {{.steps = 7, .half = true, .scale = {256, 1998, 0}}, ".......", {512, 5, 0}}};

Recipe placed(const Recipe& how, const Recipe& where) {
  Recipe out = how;
  out.ranks = where.ranks;
  out.slices = where.slices;
  out.sharded = where.sharded;
  out.clip = where.clip;
  return out;
}

std::string overflowed(const Trained& trained) {
  std::string out;
  for (const StepFault fault : trained.faults)
    out += fault == StepFault::overflow ? 'o' : fault == StepFault::none ? '.' : '!';
  return out;
}

TEST(StepsInFlight, ThoseThatOverflowAreSkippedAsOneByOne) {
  for (const Overflows& o : overflows)
    for (const Recipe& where : recipes()) {
      if (where.slices != 3) continue;
      const Recipe recipe = placed(o.recipe, where);
      Recipe alone = recipe;
      alone.ranks = 1;
      const Trained wanted = train(alone, {.late = false});
      EXPECT_EQ(overflowed(wanted), o.faults);
      EXPECT_EQ(wanted.scale, o.last)
          << wanted.scale.scale << " " << wanted.scale.good_steps << " " << wanted.scale.skipped;
      expect_same(train(recipe, {.in_flight = 1}), wanted, name_of(recipe) + ", one by one");
      for (const LateStreams::Order order : orders)
        for (const int in_flight : {4, 16})
          expect_same(train(recipe, {.order = order, .seed = 5, .in_flight = in_flight}), wanted,
                      name_of(recipe) + ", " + std::to_string(in_flight) + " in flight");
    }
}

TEST(StepsInFlight, TheScaleOfTheLossCanBeTakenOutAndPutBack) {
  for (const Overflows& o : overflows)
    for (const int ranks : {1, 3}) {
      Recipe recipe = placed(o.recipe, {ranks, 3, true, 0.2});
      const Trained wanted = train(placed(recipe, {1, 3, true, 0.2}), {.late = false});
      recipe.interrupted = true;
      expect_same(train(recipe, {.in_flight = 3}), wanted, std::to_string(ranks) + " ranks, interrupted");
      recipe.interrupted = false;
      recipe.reloaded = true;
      expect_same(train(recipe, {.in_flight = 3}), wanted, std::to_string(ranks) + " ranks, reloaded");
    }
}

// At the smallest scale a gradient that is not finite is not the scale's fault.
TEST(StepsInFlight, WhatIsBadAtTheSmallestScaleTakesBackThoseBehindIt) {
  for (const Recipe& where : recipes()) {
    Recipe recipe = placed({}, where);
    recipe.half = true;
    recipe.scale = {4, 7, 0};
    recipe.bad_inputs = {1, 2};
    recipe.bad_step = 4;
    Recipe alone = recipe;
    alone.ranks = 1;
    const Trained wanted = train(alone, {.late = false});
    EXPECT_EQ(overflowed(wanted), ".oo.!");
    EXPECT_EQ(wanted.scale, (LossScale{1, 1, 2}));
    const Trained one_by_one = train(recipe, {.in_flight = 1});
    for (const auto& [in_flight, graphs] :
         {std::pair(1, false), {2, false}, {3, false}, {7, false}, {1, true}, {7, true}}) {
      const Trained found = train(recipe, {.in_flight = in_flight, .graphs = graphs});
      expect_same(found, wanted, name_of(recipe) + ", " + std::to_string(in_flight) + " in flight");
      std::size_t seen = 0;
      for (std::size_t r = 0; r < found.totals.size(); ++r) {
        seen += found.totals[r].size();
        ASSERT_EQ(found.totals[r].size(), one_by_one.totals[r].size());
        EXPECT_EQ(0, std::memcmp(found.totals[r].data(), one_by_one.totals[r].data(),
                                 found.totals[r].size() * sizeof(float)))
            << name_of(recipe);
      }
      EXPECT_GE(seen, found.parameters.size());
    }
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
      expect_same(found, wanted, name_of(recipe) + ", " + std::to_string(in_flight) + " in flight");
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

// What becomes of the scale is not in the graph: steps that overflow are launches as others.
TEST(WholeSteps, ReplayedTheyScaleTheLossAsEnqueuedOnes) {
  for (const Overflows& o : overflows)
    for (const std::int64_t slices : {1, 3})
      for (const double clip : {0.0, 0.2}) {
        Recipe recipe = placed(o.recipe, {1, slices, true, clip});
        for (const bool reloaded : {false, true}) {
          recipe.reloaded = false;
          const Trained wanted = train(recipe, {.late = false});
          recipe.reloaded = reloaded;
          for (const int in_flight : {1, 3, 16}) {
            const Trained found = train(recipe, {.in_flight = in_flight, .graphs = true});
            expect_same(found, wanted, std::to_string(slices) + " slices");
            EXPECT_EQ(found.captures, 2);
          }
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
    for (const Overflows& o : overflows)
      expect_same(train(placed(o.recipe, recipe), {.in_flight = 4, .graphs = true}),
                  train(placed(o.recipe, {1, 4, true, 0.2}), {.late = false}),
                  std::to_string(ranks) + " ranks in float16");
  }
}

// After a refused step the caller may go on with the next batch.
TEST(StepsInFlight, TheDeviceGoesOnAfterARefusedOne) {
  const Graph graph =
      build_layers("conv:8x3,pad=1 bn relu flatten dense:3", image, classes, CrossEntropyAttrs{});
  const auto parameters_after = [&](const std::vector<std::int64_t>& batches, int in_flight) {
    std::vector<float> out;
    run_ranks(1, {}, [&](Communicator& comm) {
      const auto streams = std::make_shared<LateStreams>(LateStreams::Order::at_random);
      const Recipe recipe{1, 2, true, 0, "sgd", true, 7, 3};
      TrainStepOptions options;
      options.slice_rows = rows;
      options.optimizer.name = "sgd";
      options.sync.slices = recipe.slices;
      options.device = late_device(streams);
      options.in_flight = in_flight;
      LanePool lanes(1);
      const std::unique_ptr<TrainStep> made_step = make_train_step(graph, options, comm, lanes);
      TrainStep& step = *made_step;
      initialise_model(graph, step.executor(), 3, step.writable_parameters());
      std::int64_t taken = 0;
      for (std::size_t i = 0; i < batches.size();) {
        for (std::size_t j = i; j < batches.size() && !step.full(); ++j) {
          const StepData batch = batch_of(recipe, {0, 2}, batches[j]);
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
  const Graph graph = build_layers("flatten dense:3", image, classes, CrossEntropyAttrs{});
  run_ranks(1, {}, [&](Communicator& comm) {
    const auto most = [&](auto change, Timeline* timeline = nullptr) {
      TrainStepOptions options;
      options.slice_rows = rows;
      options.optimizer.name = "sgd";
      options.in_flight = 8;
      options.device = late_device(std::make_shared<LateStreams>(LateStreams::Order::at_random));
      change(options);
      LanePool lanes(1);
      return make_train_step(graph, options, comm, lanes, timeline)->most_in_flight();
    };
    EXPECT_EQ(most([](TrainStepOptions&) {}), 8);
    EXPECT_EQ(most([](TrainStepOptions& o) {
                o.before_update = [](std::span<const SliceResult>) { return true; };
              }),
              1);
    EXPECT_EQ(most([](TrainStepOptions& o) { o.device.scales_loss = true; }), 8);
    EXPECT_EQ(most([](TrainStepOptions& o) { o.device.only_enqueues = false; }), 1);
    EXPECT_EQ(most([](TrainStepOptions& o) { o.sync.reduction = Reduction::fast; }), 1);
    EXPECT_EQ(most([](TrainStepOptions& o) { o.device = {}; }), 1);
    Timeline timeline(100);
    EXPECT_EQ(most([](TrainStepOptions&) {}, &timeline), 1);
  });
}

}  // namespace
}  // namespace lockstep::test
