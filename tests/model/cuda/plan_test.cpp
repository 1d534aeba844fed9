// What a GPU is told to do, read as data: memory, segments, the order of streams and events.

#include "model/cuda/plan/plan.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <map>
#include <set>

#include "core/error.h"
#include "model/cuda/host_engine.h"
#include "model/cuda/host_machine.h"
#include "model/cuda/kernels/work_reduce.h"
#include "model/cuda/late_machine.h"
#include "model/cuda/plan/step_program.h"
#include "model/executor_check.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/zoo.h"

namespace lockstep::cuda {
namespace {

using test::zoo_of_ops;

lockstep::Graph resnet() {
  return build_model("resnet50", {{"width", "8"}}, {3, 32, 32}, 10, CrossEntropyAttrs{});
}

TEST(CudaPlan, BuffersInUseAtOnceDoNotOverlap) {
  for (const auto& graph : {zoo_of_ops(), resnet()})
    for (const bool training : {true, false})
      for (const Precision precision : {Precision::fp32, Precision::bf16}) {
        const Plan plan = make_plan(graph, 4, training, precision, 1000);
        std::size_t sum = 0;
        for (std::size_t i = 0; i < plan.memory.size(); ++i) {
          const MemoryRequest& a = plan.memory[i];
          sum += a.bytes;
          EXPECT_EQ(a.offset % 64, 0u);
          EXPECT_LE(a.offset + a.bytes, plan.arena_bytes);
          for (std::size_t j = 0; j < i; ++j) {
            const MemoryRequest& b = plan.memory[j];
            if (a.last < b.first || b.last < a.first) continue;
            EXPECT_TRUE(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset)
                << a.name << " " << b.name;
          }
        }
        EXPECT_LT(plan.arena_bytes, sum);
      }
}

TEST(CudaPlan, SixteenBitsHalveTheActivations) {
  const auto graph = resnet();
  const Plan wide = make_plan(graph, 16, true, Precision::fp32, 1 << 20);
  const Plan narrow = make_plan(graph, 16, true, Precision::bf16, 1 << 20);
  EXPECT_LT(static_cast<double>(narrow.arena_bytes), 0.62 * static_cast<double>(wide.arena_bytes));
  EXPECT_EQ(narrow.layout.elements, wide.layout.elements);  // weights and gradients stay float32
}

TEST(CudaPlan, SegmentsTileTheBackwardPassAndTheFlatGradient) {
  const auto graph = resnet();
  std::set<std::size_t> counts;
  for (const std::int64_t wanted : {std::int64_t{1}, std::int64_t{5000}, std::int64_t{1} << 30}) {
    const Plan plan = make_plan(graph, 2, true, Precision::fp32, wanted);
    int command = 0;
    std::int64_t element = 0;
    for (std::size_t s = 0; s < plan.segments.size(); ++s) {
      const Segment& segment = plan.segments[s];
      EXPECT_EQ(segment.first, command);
      EXPECT_EQ(segment.flat.begin, element);
      command = segment.last;
      element = segment.flat.end;
      if (s + 1 < plan.segments.size()) {
        EXPECT_GE(segment.flat.size(), wanted);
      }
    }
    EXPECT_EQ(command, static_cast<int>(plan.backward.size()));
    EXPECT_EQ(element, plan.layout.elements);
    counts.insert(plan.segments.size());
  }
  EXPECT_EQ(counts.size(), 3u);
}

/// Every parameter's gradient, and every statistic, is written once, by a command of the segment that holds
/// it.
TEST(CudaPlan, EveryGradientIsWrittenInItsSegment) {
  for (const auto& graph : {zoo_of_ops(), resnet()}) {
    const Plan plan = make_plan(graph, 2, true, Precision::fp32, 3000);
    std::map<std::int64_t, int> written;
    const auto in = [&](const Segment& segment, std::int64_t element) {
      EXPECT_TRUE(segment.flat.begin <= element && element < segment.flat.end);
      ++written[element];
    };
    for (const Segment& segment : plan.segments)
      for (int i = segment.first; i < segment.last; ++i) {
        const Command& command = plan.backward[static_cast<std::size_t>(i)];
        if (const auto* c = std::get_if<ConvBackwardWeights>(&command)) in(segment, c->weight);
        if (const auto* c = std::get_if<DenseBackwardWeights>(&command)) in(segment, c->weight);
        if (const auto* c = std::get_if<BiasGradient>(&command)) in(segment, c->bias);
        if (const auto* c = std::get_if<NormBackwardCommand>(&command)) {
          in(segment, c->gamma);
          in(segment, c->beta);
        }
      }
    for (const Command& command : plan.forward)
      if (const auto* c = std::get_if<NormForward>(&command)) {
        ++written[c->mean];
        ++written[c->variance];
      }
    EXPECT_EQ(written.size(), plan.layout.segments.size());
    for (const FlatSegment& s : plan.layout.segments) {
      EXPECT_EQ(written[s.storage.begin], 1) << s.name;
      EXPECT_EQ(s.storage.begin % 16, 0) << s.name;
    }
  }
}

TEST(CudaPlan, FusesWhatTheCpuFuses) {
  const auto graph = resnet();
  const Plan plan = make_plan(graph, 2, true, Precision::fp32, 1 << 20);
  int residual = 0, plain_relu = 0;
  for (const Command& command : plan.forward) {
    if (const auto* c = std::get_if<NormForward>(&command)) residual += c->residual != nowhere;
    plain_relu += std::holds_alternative<ReluForward>(command);
  }
  EXPECT_EQ(residual, 16);
  EXPECT_EQ(plain_relu, 0);
  EXPECT_LT(plan.ops.size(), graph.nodes.size());
}

TEST(CudaPlan, OnlyFloat16IsUnscaled) {
  for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16, Precision::fp16}) {
    const Plan plan = make_plan(zoo_of_ops(), 2, true, precision, 1 << 20);
    std::int64_t elements = 0, parameters = 0;
    for (const Command& command : plan.backward)
      if (const auto* c = std::get_if<UnscaleGradient>(&command)) elements += c->flat.size();
    for (const FlatSegment& s : plan.layout.segments)
      if (s.kind == FlatSegment::Kind::parameter) parameters += s.storage.size();
    EXPECT_EQ(elements, precision == Precision::fp16 ? parameters : 0);
  }
}

TEST(CudaPlan, ChunksCoverAllRowsAndGroupsAllChunks) {
  for (const std::int64_t rows : {1, 31, 32, 33, 2048, 131072, 131073, 3211264, 100000001}) {
    const ChunkPlan plan = chunk_plan(rows);
    EXPECT_GE(plan.chunks * plan.rows_per_chunk, rows);
    EXPECT_LT((plan.chunks - 1) * plan.rows_per_chunk, rows);
    EXPECT_GE(plan.groups * chunks_per_group, plan.chunks);
    EXPECT_LE(plan.groups, chunks_per_group) << rows;
  }
}

// ---- Which pieces a GPU captures ----

TEST(CudaEngine, ASteadyStepCapturesNothingNew) {
  const auto graph = zoo_of_ops();
  const test::Data data(graph, 5, 4, {4, 4, 2, 4, 0});
  ExecutorOptions options;
  options.slice_rows = 4;
  options.slices = 5;
  options.mine = {0, 5};
  const test::HostEngine engine =
      make_host_engine(graph, options, {}, std::make_unique<test::HostMachine>(), 500);
  const std::vector<float> flat = test::initial_flat(graph, *engine);
  std::vector<float> root(flat.size());
  const std::span<float> view(root);
  std::vector<SliceResult> results(5);
  StepInputs inputs;
  inputs.parameters = flat;
  inputs.slices = data.batches;
  inputs.roots = {&view, 1};
  inputs.results = results;
  // Two steps: of five slices the next step's first takes the other input buffer.
  for (int turn = 0; turn < 2; ++turn) engine->train(inputs);
  const std::size_t pieces = engine.machine.keys.size();
  const std::int64_t launches = engine.machine.launches;
  for (int turn = 0; turn < 2; ++turn) engine->train(inputs);
  EXPECT_EQ(engine.machine.keys.size(), pieces);
  EXPECT_EQ(engine.machine.launches, 2 * launches);
  // At most: forward and every segment, per slot and input buffer.
  const auto slots = static_cast<std::size_t>(make_slice_schedule(5, {0, 5}, 1).slots);
  EXPECT_LE(pieces, (1 + engine.plan.segments.size()) * slots * 2);
}

// With gradients that go to the host, on streams that do what they are told in any order that the events
// allow.
TEST(CudaEngine, StreamsInAnyOrderGiveTheSameBits) {
  const auto graph = zoo_of_ops();
  const auto train = [&](std::unique_ptr<test::HostMachine> machine) {
    const test::Data data(graph, 5, 4, {4, 4, 0, 4, 2});
    ExecutorOptions options;
    options.slice_rows = 4;
    options.slices = 5;
    options.mine = {0, 5};
    const test::HostEngine engine = make_host_engine(graph, options, {}, std::move(machine), 500);
    const std::vector<float> flat = test::initial_flat(graph, *engine);
    std::vector<float> root(flat.size()), all;
    const std::span<float> view(root);
    std::vector<SliceResult> results(5);
    StepInputs inputs;
    inputs.parameters = flat;
    inputs.slices = data.batches;
    inputs.roots = {&view, 1};
    inputs.results = results;
    for (inputs.step = 0; inputs.step < 3; ++inputs.step) {
      engine->train(inputs);
      all.insert(all.end(), root.begin(), root.end());
      for (const SliceResult& r : results) all.push_back(static_cast<float>(r.loss));
    }
    return all;
  };
  const std::vector<float> wanted = train(std::make_unique<test::HostMachine>());
  using test::LateStreams;
  for (const auto order :
       {LateStreams::Order::at_random, LateStreams::Order::uploads_first, LateStreams::Order::uploads_last})
    for (const bool graphs : {false, true})
      EXPECT_EQ(wanted,
                train(std::make_unique<test::LateMachine>(std::make_shared<LateStreams>(order), graphs)));
}

// With one slice a step: the input of a step is on the device while the one before waits to be computed, and
// the host is two steps further.
TEST(CudaEngine, TheNextStepsInputComesDuringThisStep) {
  const auto graph = zoo_of_ops();
  const test::Data data(graph, 1, 4, {4});
  for (const bool whole : {true, false}) {
    ExecutorOptions options;
    options.slice_rows = 4;
    options.device_buffers = true;
    options.whole_step = whole;
    options.places = 5;
    const auto streams = std::make_shared<test::LateStreams>(test::LateStreams::Order::uploads_first);
    const test::HostEngine engine =
        make_host_engine(graph, options, {}, std::make_unique<test::LateMachine>(streams, false), 500);
    const std::vector<float> flat = test::initial_flat(graph, *engine);
    std::vector<float> root(flat.size());
    const std::span<float> view(root);
    std::vector<SliceResult> results(1);
    StepInputs inputs;
    inputs.parameters = flat;
    inputs.slices = data.batches;
    inputs.roots = {&view, 1};
    inputs.results = results;
    inputs.only_enqueue = true;
    for (; inputs.place < 4; ++inputs.place) engine->train(inputs);
    EXPECT_EQ(engine.machine.launches, 0);
    engine->train(inputs);  // whose copy would be the third into the first buffer
    EXPECT_GT(engine.machine.launches, 0);
    engine.machine.finish();
  }
}

// Captured pieces hold the addresses of parameters and gradients: others mean others.
TEST(CudaEngine, ParametersAndGradientsMayMove) {
  const auto graph = zoo_of_ops();
  const test::Data data(graph, 3, 4, {4, 4, 3});
  for (const bool whole : {true, false}) {
    ExecutorOptions options;
    options.slice_rows = 4;
    options.slices = 3;
    options.mine = {0, 3};
    options.device_buffers = true;
    options.whole_step = whole;
    const auto streams = std::make_shared<test::LateStreams>(test::LateStreams::Order::at_random);
    const test::HostEngine engine =
        make_host_engine(graph, options, {}, std::make_unique<test::LateMachine>(streams, true), 500);
    std::vector<std::vector<float>> flats, roots;
    for (int i = 0; i < 2; ++i) {
      flats.push_back(test::initial_flat(graph, *engine));
      roots.emplace_back(2 * flats[0].size());
    }
    for (float& p : flats[1]) p *= 1.5f;
    std::vector<SliceResult> results(3);
    StepInputs inputs;
    inputs.slices = data.batches;
    inputs.results = results;
    inputs.only_enqueue = true;
    std::vector<std::vector<float>> found[2];
    // Each twice for each turn of the input buffers, so that it is captured, and once more.
    for (const int which : {0, 1, 0}) {
      const std::span<float> all(roots[static_cast<std::size_t>(which)]);
      const std::span<float> views[] = {all.first(all.size() / 2), all.last(all.size() / 2)};
      inputs.roots = std::span(views, engine->schedule().roots.size());
      inputs.parameters = flats[static_cast<std::size_t>(which)];
      for (int step = 0; step < 5; ++step) {
        std::fill(all.begin(), all.end(), 0.0f);
        engine->train(inputs);
        engine.machine.finish();
        found[which].emplace_back(all.begin(), all.end());
      }
    }
    for (const auto& gradients : found)
      for (const auto& gradient : gradients) EXPECT_EQ(gradient, gradients[0]);
    EXPECT_NE(found[0][0], found[1][0]);
    EXPECT_EQ(found[0].size(), 10u);
    EXPECT_TRUE(!whole || streams->captures == 3 * 2) << streams->captures;
  }
}

/// Looks at every op and changes one slice's gradient before it is added to the others.
TEST(CudaEngine, ListenersSeeEverySliceAndOp) {
  struct Slices final : SliceGradientListener {
    std::map<std::int64_t, std::int64_t> seen;
    void slice_ready(std::int64_t slice, Range range, std::span<float> gradient) override {
      EXPECT_EQ(range.begin, seen[slice]);
      seen[slice] = range.end;
      if (slice == 1) std::fill(gradient.begin(), gradient.end(), 0.0f);
    }
  };
  struct Ops final : OpInspector {
    std::vector<int> forward_nodes, backward_nodes;
    void forward(std::span<const int> nodes, std::span<const float> output) override {
      forward_nodes.insert(forward_nodes.end(), nodes.begin(), nodes.end());
      for (const float x : output) ASSERT_TRUE(std::isfinite(x));
    }
    void backward(std::span<const int> nodes, std::span<const float> gradient,
                  std::span<const std::span<const float>> diffs) override {
      backward_nodes.insert(backward_nodes.end(), nodes.begin(), nodes.end());
      for (const float x : gradient) ASSERT_TRUE(std::isfinite(x));
      for (const auto& diff : diffs)
        for (const float x : diff) ASSERT_TRUE(std::isfinite(x));
    }
  };
  const auto graph = zoo_of_ops();
  const test::Data data(graph, 2, 4, {4, 3});
  const auto train = [&](Node mine, SliceGradientListener* slices, OpInspector* ops) {
    ExecutorOptions options;
    options.slice_rows = 4;
    options.slices = 2;
    options.mine = mine;
    const test::HostEngine engine =
        make_host_engine(graph, options, {}, std::make_unique<test::HostMachine>(), 500);
    const std::vector<float> flat = test::initial_flat(graph, *engine);
    std::vector<float> root(flat.size());
    const std::span<float> view(root);
    std::vector<SliceResult> results(static_cast<std::size_t>(mine.size()));
    StepInputs inputs;
    inputs.parameters = flat;
    inputs.slices = std::span(data.batches).subspan(static_cast<std::size_t>(mine.begin), results.size());
    inputs.roots = {&view, 1};
    inputs.results = results;
    inputs.slice_listener = slices;
    inputs.inspector = ops;
    engine->train(inputs);
    return root;
  };
  Slices slices;
  Ops ops;
  const std::vector<float> both = train({0, 2}, &slices, &ops);
  EXPECT_EQ(both, train({0, 1}, nullptr, nullptr));  // the second slice counts for nothing
  EXPECT_EQ(slices.seen.size(), 2u);
  EXPECT_EQ(slices.seen[1], static_cast<std::int64_t>(both.size()));
  EXPECT_EQ(ops.forward_nodes.size(), 2 * graph.nodes.size());
  EXPECT_EQ(ops.backward_nodes.size(), 2 * graph.nodes.size());
}

}  // namespace
}  // namespace lockstep::cuda
