// Parameters that are not trained: who computes a gradient for them, in the plans of both devices.

#include "model/graph/freeze.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <variant>

#include "model/cpu/plan.h"
#include "model/cuda/plan/plan.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/plan/fusion.h"
#include "model/zoo/layers_line.h"

namespace lockstep {
namespace {

Graph net(const std::string& frozen) {
  Graph graph = build_layers("conv:8x3 bn relu conv:8x3 bn relu flatten dense:4", Shape{2, 8, 8}, 4,
                             CrossEntropyAttrs{});
  freeze_parameters(graph, frozen);
  return graph;
}

TEST(Freeze, ValuesHaveAGradientAboveTheLowestThatIsTrainedOnly) {
  const auto needed = [](const std::string& frozen) {
    const std::vector<bool> values = values_with_gradient(net(frozen));
    return std::count(values.begin(), values.end(), true);
  };
  // All but the input; of the first layers conv, norm and ReLU fall away.
  EXPECT_EQ(needed(""), 8);
  EXPECT_EQ(needed("conv1.*, bn1.*"), 5);
  EXPECT_EQ(needed("conv1.*"), 7) << "the norm above is trained";
  EXPECT_EQ(needed("conv2.*, bn2.*"), 8) << "what is below them is trained";
  EXPECT_EQ(needed("conv*, bn*"), 1);
}

// Ranges of the flat gradient are final one behind the other, whether somebody computes them or not.
TEST(Freeze, TheCpuLeavesOutTheBackwardPassBelow) {
  for (const std::string frozen : {"", "conv1.*, bn1.*"}) {
    const cpu::Plan plan = cpu::make_plan(net(frozen), 4, true, 1);
    std::int64_t next = 0;
    int left_out = 0;
    for (const cpu::BackwardItem& item : plan.backward) {
      const cpu::PlannedOp& op = plan.ops[static_cast<std::size_t>(item.op)];
      if (op.flat.size() > 0) {
        EXPECT_EQ(op.flat.begin, next);
        next = op.flat.end;
      }
      left_out += op.has_backward ? 0 : 1;
      EXPECT_EQ(item.zeros.empty(), op.has_backward);
    }
    EXPECT_EQ(next, plan.layout.elements);
    EXPECT_EQ(left_out, frozen.empty() ? 0 : 2);
  }
  EXPECT_LT(cpu::make_plan(net("conv1.*, bn1.*"), 4, true, 1).arena_bytes,
            cpu::make_plan(net(""), 4, true, 1).arena_bytes);
}

TEST(Freeze, AGpuLeavesOutTheBackwardPassBelow) {
  const auto plan_of = [](const std::string& frozen) {
    return cuda::make_plan(net(frozen), 4, true, cuda::Precision::fp32, 1);
  };
  const cuda::Plan whole = plan_of(""), part = plan_of("conv1.*, bn1.*");
  const auto count = [](const cuda::Plan& plan, auto kind) {
    return std::count_if(plan.backward.begin(), plan.backward.end(), [](const cuda::Command& command) {
      return std::holds_alternative<decltype(kind)>(command);
    });
  };
  EXPECT_EQ(count(whole, cuda::ConvBackwardWeights{}), 2);
  EXPECT_EQ(count(part, cuda::ConvBackwardWeights{}), 1);
  EXPECT_EQ(count(whole, cuda::ZeroGradient{}), 0);
  EXPECT_EQ(count(part, cuda::ZeroGradient{}), 4) << "weight and bias of the convolution and of the norm";
  std::int64_t next = 0;
  for (const cuda::Segment& segment : part.segments) {
    EXPECT_EQ(segment.flat.begin, next);
    next = segment.flat.end;
  }
  EXPECT_EQ(next, part.layout.elements);
}

TEST(Freeze, TheFlatLayoutSaysWhatIsTrained) {
  const cpu::Plan plan = cpu::make_plan(net("bn1.weight"), 4, true, 1);
  for (const FlatSegment& segment : plan.layout.segments)
    EXPECT_EQ(segment.is_trained(),
              segment.kind == FlatSegment::Kind::parameter && segment.name != "bn1.weight")
        << segment.name;
}

}  // namespace
}  // namespace lockstep
