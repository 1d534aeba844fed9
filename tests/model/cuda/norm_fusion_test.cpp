// Batch norm computed together with the convolution in front of it, with the host in the part of the GPU.

#include "model/cuda/plan/norm_fusion.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <set>
#include <tuple>

#include "core/error.h"
#include "model/cuda/host_engine.h"
#include "model/executor_check.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/zoo/graph_builder.h"
#include "model/zoo/layers_line.h"
#include "model/zoo/zoo.h"

namespace lockstep::cuda {
namespace {

using test::HostLibrary;
using test::HostMachine;
using test::nothing_fused;
using test::zoo_of_ops;

lockstep::Graph resnet(const std::string& name) {
  return build_model(name, {{"width", "8"}}, {3, 32, 32}, 10, CrossEntropyAttrs{});
}
lockstep::Graph two_norms() {
  return build_layers("conv:8x3,bias=0 bn relu conv:16x3,bias=0,stride=2 bn relu flatten dense:5", {3, 9, 9},
                      5, CrossEntropyAttrs{});
}
template <class T>
std::vector<T> commands(const Plan& plan) {
  std::vector<T> found;
  for (const Command& command : plan.forward)
    if (const auto* c = std::get_if<T>(&command)) found.push_back(*c);
  return found;
}

// ---- What the plan holds ----

TEST(CudaNormFusion, InferenceTakesEveryNormOfAResNetIntoItsConvolution) {
  for (const auto& [name, norms, residuals] : {std::tuple("resnet18", 20, 8), std::tuple("resnet50", 53, 16)})
    for (const Precision precision : {Precision::fp32, Precision::bf16}) {
      const Plan plan = make_plan(resnet(name), 2, false, precision, 1 << 20);
      const auto fused = commands<ConvNormForward>(plan);
      EXPECT_EQ(fused.size(), static_cast<std::size_t>(norms));
      EXPECT_EQ(std::count_if(fused.begin(), fused.end(), [](auto& c) { return c.residual != nowhere; }),
                residuals);
      EXPECT_TRUE(commands<NormForward>(plan).empty());
      EXPECT_TRUE(commands<ConvForward>(plan).empty());
      std::set<int> nodes;
      for (const PlannedOp& op : plan.ops) nodes.insert(op.nodes.begin(), op.nodes.end());
      EXPECT_EQ(nodes.size(), resnet(name).nodes.size());
    }
}

TEST(CudaNormFusion, TrainingSumsInEveryConvolutionOfAResNet) {
  for (const auto& [name, norms] : {std::pair("resnet18", 20), std::pair("resnet50", 53)})
    for (const Precision precision : {Precision::bf16, Precision::fp16}) {
      const Plan plan = make_plan(resnet(name), 2, true, precision, 1 << 20);
      const auto found = commands<NormForward>(plan);
      ASSERT_EQ(found.size(), static_cast<std::size_t>(norms));
      for (const NormForward& norm : found) {
        ASSERT_GE(norm.sums_from, 0);
        const auto& from = std::get<ConvForward>(plan.forward[static_cast<std::size_t>(norm.sums_from)]);
        EXPECT_EQ(from.y, norm.x);
        EXPECT_EQ(from.sums, norm.sums);
        EXPECT_NE(from.sums, nowhere);
      }
    }
}

TEST(CudaNormFusion, DataGradientsAreMaskedAndSummedWithinTheBlocksOfAResNet) {
  for (const auto& [name, norms] : {std::pair("resnet18", 8), std::pair("resnet50", 32)})
    for (const Precision precision : {Precision::bf16, Precision::fp16, Precision::fp32}) {
      const Plan plan = make_plan(resnet(name), 2, true, precision, 1000);
      int found = 0, asked = 0;
      for (int i = 0; i < static_cast<int>(plan.backward.size()); ++i) {
        const Command& command = plan.backward[static_cast<std::size_t>(i)];
        if (const auto* c = std::get_if<ConvBackwardData>(&command)) asked += c->norm.sums != nowhere;
        const auto* norm = std::get_if<NormBackwardCommand>(&command);
        if (norm == nullptr || norm->sums_from < 0) continue;
        ++found;
        ASSERT_LT(norm->sums_from, i);
        const auto& from =
            std::get<ConvBackwardData>(plan.backward[static_cast<std::size_t>(norm->sums_from)]);
        EXPECT_EQ(from.dx, norm->dy);
        EXPECT_EQ(from.norm.x, norm->x);
        EXPECT_EQ(from.norm.saved, norm->saved);
        EXPECT_EQ(from.norm.gamma, norm->gamma);
        EXPECT_EQ(from.norm.beta, norm->beta);
        EXPECT_EQ(from.shape.in_channels, norm->channels);
        EXPECT_EQ(norm->dresidual, nowhere);
        EXPECT_EQ(norm->y, nowhere);
        EXPECT_TRUE(norm->relu);  // for where there is no such plan
      }
      EXPECT_EQ(found, precision == Precision::fp32 ? 0 : norms) << name;
      EXPECT_EQ(asked, found);
    }
}

TEST(CudaNormFusion, NothingIsMaskedWhereItMustNotBe) {
  const auto asked = [](const lockstep::Graph& graph, bool fuse = true) {
    int count = 0;
    for (const Command& command : make_plan(graph, 2, true, Precision::fp16, 1 << 20, fuse).backward)
      if (const auto* c = std::get_if<ConvBackwardData>(&command)) count += c->norm.sums != nowhere;
    return count;
  };
  EXPECT_EQ(asked(two_norms()), 1);
  EXPECT_EQ(asked(two_norms(), false), 0);
  for (const char* layers :
       {"conv:8x3 bn conv:8x3 flatten dense:5", "conv:8x3 bn relu maxpool:2 conv:8x3 flatten dense:5"})
    EXPECT_EQ(asked(build_layers(layers, {3, 12, 12}, 5, CrossEntropyAttrs{})), 0) << layers;
  // With two readers the gradient is a sum; with a residual the sign is not the norm's.
  EXPECT_EQ(asked(zoo_of_ops()), 0);
}

TEST(CudaNormFusion, NothingIsFusedWhereItMustNotBe) {
  const auto sums = [](const Plan& plan) {
    int count = 0;
    for (const auto& c : commands<ConvForward>(plan)) count += c.sums != nowhere;
    return count;
  };
  // float32: cuDNN sums 16-bit results only.
  EXPECT_EQ(sums(make_plan(two_norms(), 2, true, Precision::fp32, 1 << 20)), 0);
  EXPECT_EQ(sums(make_plan(two_norms(), 2, true, Precision::tf32, 1 << 20)), 0);
  EXPECT_EQ(sums(make_plan(two_norms(), 2, true, Precision::bf16, 1 << 20)), 2);
  EXPECT_EQ(sums(make_plan(two_norms(), 2, true, Precision::bf16, 1 << 20, false)), 0);
  // A bias is what empty rows hold then, here of the convolution itself or of one in front of it.
  for (const char* layers :
       {"conv:8x3 bn flatten dense:5", "conv:8x3 relu conv:8x3,bias=0 bn flatten dense:5",
        "conv:8x3 maxpool:2 conv:8x3,bias=0 bn flatten dense:5", "conv:8x3,bias=0 relu bn flatten dense:5"})
    EXPECT_EQ(sums(make_plan(build_layers(layers, {3, 9, 9}, 5, CrossEntropyAttrs{}), 2, true,
                             Precision::bf16, 1 << 20)),
              0)
        << layers;
  // In inference every row is for itself, so a bias may be.
  const auto with_bias = build_layers("conv:8x3 bn flatten dense:5", {3, 9, 9}, 5, CrossEntropyAttrs{});
  EXPECT_EQ(commands<ConvNormForward>(make_plan(with_bias, 2, false, Precision::bf16, 1 << 20)).size(), 1u);
  EXPECT_TRUE(
      commands<ConvNormForward>(make_plan(with_bias, 2, false, Precision::bf16, 1 << 20, false)).empty());
  // Somebody else reads the convolution's result.
  GraphBuilder b("fork");
  const ValueId c = b.conv2d(b.input({3, 6, 6}), {.out_channels = 4, .kernel_h = 3, .kernel_w = 3});
  const auto fork = b.finish(b.add(b.batch_norm(c), c), MeanSquaredErrorAttrs{});
  EXPECT_TRUE(commands<ConvNormForward>(make_plan(fork, 2, false, Precision::fp32, 1 << 20)).empty());
}

TEST(CudaNormFusion, ResidualsTakeTheirGradientWhereItLies) {
  // Per block one norm; what two ops read is added by it, except for the input of the first block.
  for (const auto& [name, blocks] : {std::pair("resnet18", 8), std::pair("resnet50", 16)})
    for (const Precision precision : {Precision::bf16, Precision::fp32}) {
      const Plan plan = make_plan(resnet(name), 2, true, precision, 1000);
      int in_place = 0, adding = 0, sums = 0, from_input = 0;
      for (const Command& command : plan.backward) {
        sums += std::holds_alternative<Accumulate>(command);
        const auto* norm = std::get_if<NormBackwardCommand>(&command);
        if (norm == nullptr) continue;
        in_place += norm->y != nowhere;
        adding += norm->more != nowhere;
        from_input += norm->relu;
        if (norm->y == nowhere) continue;
        EXPECT_EQ(norm->dresidual, nowhere);
        EXPECT_FALSE(norm->relu);
        EXPECT_NE(norm->dy, norm->dx);
      }
      EXPECT_EQ(in_place, blocks);
      EXPECT_EQ(adding, blocks - 1);
      EXPECT_EQ(sums, 1);
      EXPECT_EQ(from_input, name == std::string("resnet18") ? 9 : 33);
    }
}

// Three readers, the norm's own residual among them, and a residual that needs no gradient.
TEST(CudaNormFusion, ResidualsOfOddGraphsMatchTheSeparateSums) {
  GraphBuilder b("odd residuals");
  const ValueId x = b.input({8, 6, 6});
  const auto conv = [&](ValueId v) {
    return b.conv2d(v,
                    {.out_channels = 8, .kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1, .bias = false});
  };
  const ValueId first = b.relu(b.add(b.batch_norm(conv(x)), x));  // the input has no gradient
  const ValueId c = conv(first);
  const ValueId second = b.relu(b.add(b.batch_norm(c), c));  // the norm's input is its residual
  const ValueId third = b.relu(b.add(b.batch_norm(conv(second)), first));
  const ValueId fourth = b.relu(b.add(b.batch_norm(conv(third)), second));
  const auto graph = b.finish(b.add(b.add(fourth, third), second), MeanSquaredErrorAttrs{});
  const test::Compile compile = [](const lockstep::Graph& g, const ExecutorOptions& options) {
    return make_host_engine(g, options, CudaOptions{}, std::make_unique<HostMachine>(), 500).executor;
  };
  for (const std::int64_t valid : {5, 3}) test::expect_matches_reference(compile, graph, 5, {valid}, 1.5e-4);
}

// ---- Carrying it out ----

struct Ran {
  std::vector<float> root;  ///< training: gradient and statistics
  std::vector<float> outputs;
  std::int64_t norms = 0, summed = 0, masked = 0;
  std::string choice;
  FlatLayout layout;
};
Ran run(const lockstep::Graph& graph, const test::Data& data, bool training, Precision precision,
        const HostLibrary& library, bool fuse = true, const std::string& choice = {}) {
  ExecutorOptions options;
  options.slice_rows = data.rows;
  options.training = training;
  CudaOptions cuda;
  cuda.precision = precision;
  cuda.fuse = fuse;
  const test::HostEngine engine =
      make_host_engine(graph, options, cuda, std::make_unique<HostMachine>(library, choice), 500);
  const std::vector<float> flat = test::initial_flat(graph, *engine);
  Ran out;
  out.root.resize(flat.size());
  out.outputs.resize(static_cast<std::size_t>(data.rows * graph.shape_of(graph.output).elements()));
  const std::span<float> root(out.root), outputs(out.outputs);
  SliceResult result;
  StepInputs inputs;
  inputs.parameters = flat;
  inputs.slices = std::span(data.batches).first(1);
  inputs.results = {&result, 1};
  if (training) {
    inputs.roots = {&root, 1};
    engine->train(inputs);
  } else {
    engine->infer(inputs, {&outputs, 1});
  }
  out.norms = engine.machine.norms;
  out.summed = engine.machine.summed;
  out.masked = engine.machine.masked;
  out.choice = engine->plan_choice();
  out.layout = engine->layout();
  return out;
}

TEST(CudaNormFusion, ALibraryWithoutThePlansLeavesItToTheSeparateKernels) {
  for (const auto& graph : {zoo_of_ops(), two_norms()})
    for (const Precision precision : {Precision::fp32, Precision::bf16, Precision::fp16})
      for (const bool training : {true, false}) {
        const test::Data data(graph, 1, 5, {4});
        const Ran fused = run(graph, data, training, precision, {});
        const Ran separate = run(graph, data, training, precision, nothing_fused);
        const Ran without_norms = run(graph, data, training, precision, {false, false, false});
        const Ran off = run(graph, data, training, precision, {}, false);
        EXPECT_EQ(fused.norms > 0, !training);
        EXPECT_EQ(fused.summed > 0, training && bytes_of(precision) == 2);
        // In the other graph every norm with ReLU has a residual or two readers.
        const bool alone = graph.name == two_norms().name;
        EXPECT_EQ(fused.masked > 0, alone && training && bytes_of(precision) == 2);
        EXPECT_EQ(separate.norms + separate.summed + separate.masked + off.norms + off.summed + off.masked,
                  0);
        // Bit for bit what is computed without any of it.
        EXPECT_EQ(separate.root, off.root);
        const auto valid = static_cast<std::ptrdiff_t>(4 * graph.shape_of(graph.output).elements());
        EXPECT_TRUE(
            std::equal(separate.outputs.begin(), separate.outputs.begin() + valid, off.outputs.begin()));
        EXPECT_EQ(fused.choice != without_norms.choice, fused.norms + fused.summed > 0);
        EXPECT_EQ(off.choice, separate.choice);
      }
}

// Rank 0 picks and tells the others: what it has not, nobody takes; what it has, everybody takes or fails.
TEST(CudaNormFusion, AllRanksTakeWhatRank0Took) {
  const auto graph = two_norms();
  const test::Data data(graph, 1, 4, {4});
  for (const bool training : {true, false}) {
    const Ran with = run(graph, data, training, Precision::bf16, {});
    const Ran without = run(graph, data, training, Precision::bf16, nothing_fused);
    const Ran told_with = run(graph, data, training, Precision::bf16, {}, true, with.choice);
    const Ran told_without = run(graph, data, training, Precision::bf16, {}, true, without.choice);
    EXPECT_EQ(told_with.root, with.root);
    EXPECT_EQ(told_with.outputs, with.outputs);
    EXPECT_EQ(told_without.root, without.root);
    EXPECT_EQ(told_without.outputs, without.outputs);
    EXPECT_EQ(told_without.norms + told_without.summed + told_without.masked, 0);
    EXPECT_THROW(run(graph, data, training, Precision::bf16, nothing_fused, true, with.choice), DeviceError);
  }
}

// A slice with empty rows gives the bits of one that has none.
TEST(CudaNormFusion, EmptyRowsCountForNothing) {
  const auto graph = two_norms();
  for (const Precision precision : {Precision::bf16, Precision::fp16}) {
    const test::Data uneven(graph, 1, 7, {4}), even(graph, 1, 4, {4});
    const Ran a = run(graph, uneven, true, precision, {}), b = run(graph, even, true, precision, {});
    EXPECT_EQ(a.summed, 2);
    EXPECT_EQ(a.masked, 1);
    EXPECT_EQ(a.root, b.root);
  }
}

TEST(CudaNormFusion, EmptyRowsHoldZerosWhereTheyAreSaidTo) {
  const std::int64_t rows = 5, valid = 3;
  for (const auto& graph : {zoo_of_ops(), two_norms(),
                            build_layers("conv:8x3,bias=0 maxpool:2 dropout:0.5 avgpool:2 flatten "
                                         "dense:6,bias=0 bn softmax dense:5,bias=0",
                                         {3, 12, 12}, 5, CrossEntropyAttrs{})}) {
    ExecutorOptions options;
    options.slice_rows = rows;
    CudaOptions cuda;
    cuda.precision = Precision::bf16;
    const test::HostEngine engine = make_host_engine(graph, options, cuda, std::make_unique<HostMachine>());
    const Plan& plan = engine.plan;
    const std::vector<float> flat = test::initial_flat(graph, *engine);
    std::vector<Bf16> narrow(flat.size());
    for (std::size_t i = 0; i < flat.size(); ++i) store(narrow[i], flat[i]);
    std::vector<float> gradients(flat.size());
    const test::Data data(graph, 1, rows, {valid});
    const SliceHeader header{valid, 9, 3};
    HostMachine machine;
    machine.prepare<Bf16>(plan);
    SliceMemory memory;
    memory.arena = machine.allocate_arena(plan.arena_bytes);
    memory.parameters = flat.data();
    memory.narrow = narrow.data();
    memory.gradients = gradients.data();
    memory.input = data.inputs[0].data();
    memory.samples = data.samples[0].data();
    memory.header = &header;
    Runner<Bf16, HostMachine> runner(plan, machine, memory);
    runner.take_input();
    const std::vector<bool> zero = values_with_zero_rows(graph, fuse_ops(graph));
    int said = 0, others = 0;
    for (std::size_t i = 0; i < plan.ops.size(); ++i) {
      const PlannedOp& op = plan.ops[i];
      const bool last = i + 1 == plan.ops.size();
      runner.forward(op.first_command,
                     last ? static_cast<int>(plan.forward.size()) : plan.ops[i + 1].first_command);
      const auto* value = reinterpret_cast<const Bf16*>(memory.arena + op.value.at);
      bool zeros = true;
      for (std::int64_t e = valid * op.value.row_elements; e < rows * op.value.row_elements; ++e)
        zeros = zeros && load(value[e]) == 0.0f;
      if (zero[static_cast<std::size_t>(op.output)]) {
        EXPECT_TRUE(zeros) << graph.nodes[static_cast<std::size_t>(op.nodes.front())].name;
        ++said;
      } else {
        others += !zeros;
      }
    }
    EXPECT_GE(said, 3);
    // A value of which it is not said may hold anything, and some do.
    EXPECT_GE(others, 1);
  }
}

TEST(NoPlan, ALayerThatCannotBeComputedIsNamed) {
  const lockstep::Graph graph =
      build_layers("conv:3x3,pad=1 relu conv:8x3 flatten dense:5", {8, 9, 10}, 5, CrossEntropyAttrs{});
  test::HostLibrary library;
  library.least_channels = 4;  // the second convolution has 3
  const auto refuse = [&](bool training) -> std::string {
    ExecutorOptions options;
    options.slice_rows = 4;
    options.training = training;
    try {
      const test::HostEngine engine =
          make_host_engine(graph, options, CudaOptions{}, std::make_unique<test::HostMachine>(library));
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "nothing was refused";
  };
  for (const bool training : {true, false}) {
    EXPECT_NE(refuse(training).find("the result of layer \"" + graph.nodes[2].name + "\""), std::string::npos)
        << refuse(training);
    EXPECT_NE(refuse(training).find("conv forward 4x3x9x10 8x3x3"), std::string::npos) << refuse(training);
  }
}

TEST(ConvPasses, SumsInFloat16AreTakenOnlyOnceADeviceHasShownThatTheyAreGood) {
  for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16, Precision::fp16})
    for (int p = 0; p <= static_cast<int>(ConvPass::data_norm); ++p) {
      const auto pass = static_cast<ConvPass>(p);
      const bool doubtful = pass == ConvPass::forward_sums && precision == Precision::fp16;
      EXPECT_EQ(is_trusted(pass, precision, false), !doubtful);
      EXPECT_TRUE(is_trusted(pass, precision, true));
    }
  EXPECT_FALSE(CudaOptions{}.half_sums);
}

}  // namespace
}  // namespace lockstep::cuda
