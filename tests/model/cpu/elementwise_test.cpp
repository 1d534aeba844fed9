// The CPU kernels of relu, add, flatten and dropout against their float64 references.
#include "core/numerics/philox.h"
#include "model/cpu/op_harness.h"
#include "model/ops/activation/relu.h"
#include "model/ops/arithmetic/add.h"
#include "model/ops/random/dropout.h"
#include "model/ops/shape/flatten.h"

namespace lockstep::op_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
const Bound exact = [](std::size_t, double) { return 0.0; };

/// A shape, the blocks it is tried in, rows.
struct Case {
  Shape shape;
  std::int64_t block;
  std::int64_t rows;
};
const std::vector<Case> cases = {
    {Shape{7}, 1, 5},          {Shape{1}, 1, 1},       {Shape{3, 5, 7}, 1, 3},     {Shape{16, 3, 3}, 8, 3},
    {Shape{32, 5, 4}, 16, 2},  {Shape{6, 5, 3}, 0, 4}, {Shape{48, 20, 21}, 16, 9}, {Shape{48, 20, 21}, 0, 9},
    {Shape{48, 20, 21}, 1, 9}, {Shape{30000}, 1, 20}};

std::string text(const Case& c) {
  return c.shape.text() + " block " + std::to_string(c.block) + " rows " + std::to_string(c.rows);
}

TEST(CpuElementwise, ReluEqualsTheReference) {
  for (const Case& c : cases) {
    check_against_reference(cpu::make_relu, {ReluAttrs{}, {c.shape}, c.block, c.rows, c.rows}, exact, exact,
                            text(c));
  }
}

TEST(CpuElementwise, AddRoundsOnce) {
  for (const Case& c : cases) {
    check_against_reference(
        cpu::make_add, {AddAttrs{}, {c.shape, c.shape}, c.block, c.rows, c.rows},
        [](std::size_t, double expected) { return unit * std::abs(expected); }, exact, text(c));
  }
}

TEST(CpuElementwise, AddWithReluMasksBothGradients) {
  CpuOp op(cpu::make_add, {AddAttrs{}, {Shape{4}, Shape{4}}, 1, 1, 1, true, true});
  op.set_input(0, {1, -3, 0, 2});
  op.set_input(1, {1, 1, 0, -5});
  op.set_diff_output({10, 20, 30, 40});
  op.forward();
  EXPECT_EQ(op.output(), (std::vector<float>{2, 0, 0, 0}));
  op.backward();
  EXPECT_EQ(op.diff_input(0), (std::vector<float>{10, 0, 0, 0}));
  EXPECT_EQ(op.diff_input(1), (std::vector<float>{10, 0, 0, 0}));
}

TEST(CpuElementwise, FlattenGivesThePlainOrderFromEveryLayout) {
  for (const Case& c : cases) {
    check_against_reference(cpu::make_flatten, {FlattenAttrs{}, {c.shape}, c.block, c.rows, c.rows}, exact,
                            exact, text(c));
  }
}

TEST(CpuElementwise, LargeValuesAreSplitIntoTasksByShapeAlone) {
  const CpuOp small(cpu::make_relu, {ReluAttrs{}, {Shape{10}}, 1, 4, 4});
  EXPECT_EQ(small.kernel().forward_phases()[0].tasks, 1);
  const CpuOp large(cpu::make_relu, {ReluAttrs{}, {Shape{64, 32, 32}}, 16, 32, 0});
  EXPECT_EQ(large.kernel().forward_phases()[0].tasks, 8);
  EXPECT_EQ(large.kernel().backward_phases()[0].tasks, 8);
}

TEST(CpuElementwise, NanPassesThroughReluAndAdd) {
  CpuOp relu(cpu::make_relu, {ReluAttrs{}, {Shape{3}}, 1, 1, 1});
  relu.set_input(0, {-1, nan, 2});
  relu.forward();
  EXPECT_TRUE(std::isnan(relu.output()[1]));
  EXPECT_EQ(relu.output()[0], 0);
  for (const bool fused : {false, true}) {
    CpuOp add(cpu::make_add, {AddAttrs{}, {Shape{3}, Shape{3}}, 1, 1, 1, true, fused});
    add.set_input(0, {-1, nan, 2});
    add.set_input(1, {nan, 1, 2});
    add.forward();
    EXPECT_TRUE(std::isnan(add.output()[0]) && std::isnan(add.output()[1]));
    EXPECT_EQ(add.output()[2], 4);
  }
}

TEST(CpuElementwise, ReluMayWorkInPlace) {
  CpuOp op(cpu::make_relu, {ReluAttrs{}, {Shape{37}}, 1, 3, 3});
  const auto x = random_floats(op.input_elements(0), 1);
  op.set_input(0, x);
  const auto diff = random_floats(op.output_elements(), 2);
  op.forward();
  const auto expected = op.output();
  op.set_diff_output(diff);
  op.backward();
  const auto expected_diff = op.diff_input(0);
  SliceBatch batch;
  std::vector<float> buffer = x;
  cpu::TaskContext ctx;
  ctx.arena = reinterpret_cast<std::byte*>(buffer.data());
  ctx.batch = &batch;
  cpu::Binding in_place;
  in_place.inputs = {0};
  in_place.output = 0;
  op.kernel().forward(0, 0, in_place, ctx);
  EXPECT_TRUE(same_bits(buffer, expected));
  buffer.insert(buffer.end(), diff.begin(), diff.end());
  ctx.arena = reinterpret_cast<std::byte*>(buffer.data());
  in_place.diff_output = x.size() * sizeof(float);
  in_place.diff_inputs = {in_place.diff_output};
  op.kernel().backward(0, 0, in_place, ctx);
  EXPECT_TRUE(
      same_bits({buffer.begin() + static_cast<std::ptrdiff_t>(x.size()), buffer.end()}, expected_diff));
}

TEST(CpuElementwise, DropoutEqualsTheReferenceInEveryLayout) {
  // Multiplied by the rounded 1 / (1 - rate): two roundings.
  const Bound twice = [](std::size_t, double expected) { return 2 * unit * std::abs(expected); };
  for (const Case& c : cases) {
    for (const double rate : {0.0, 0.25, 0.3, 0.999}) {
      check_against_reference(cpu::make_dropout, {DropoutAttrs{rate}, {c.shape}, c.block, c.rows, c.rows},
                              twice, twice, text(c) + " rate " + std::to_string(rate));
    }
    check_against_reference(cpu::make_dropout, {DropoutAttrs{0.5}, {c.shape}, c.block, c.rows, c.rows, false},
                            exact, exact, text(c) + " inference");
  }
}

TEST(CpuElementwise, DropoutFollowsTheFormulaOfTheGraph) {
  const double rate = 0.3;
  const Shape shape{16, 3, 5};
  for (const std::int64_t block : {1, 8, 16}) {
    CpuOp op(cpu::make_dropout, {DropoutAttrs{rate}, {shape}, block, 2, 2});
    op.samples = {(std::int64_t{1} << 40) + 5, 12};
    op.set_input(0, std::vector<float>(at(op.input_elements(0)), 1.0f));
    op.forward();
    const auto y = op.output();
    const PhiloxKey key = random_key(op.seed, Purpose::dropout, op.step, 5);
    for (std::int64_t r = 0; r < 2; ++r) {
      for (std::int64_t e = 0; e < shape.elements(); ++e) {
        const auto block_of_e = static_cast<std::uint64_t>(e / 4);
        const float u =
            uniform01(random_block(key, static_cast<std::uint64_t>(op.samples[at(r)]), block_of_e).v[e % 4]);
        ASSERT_EQ(y[at(r * shape.elements() + e)] != 0, static_cast<double>(u) >= rate) << "element " << e;
      }
    }
  }
}

TEST(CpuElementwise, DropoutDependsOnSeedStepAndSampleAndNothingElse) {
  const Shape shape{64};
  CpuOp op(cpu::make_dropout, {DropoutAttrs{0.5}, {shape}, 1, 3, 3});
  op.set_input(0, std::vector<float>(at(op.input_elements(0)), 1.0f));
  const auto draw = [&](std::uint64_t seed, std::uint64_t step, std::vector<std::int64_t> samples) {
    op.seed = seed;
    op.step = step;
    op.samples = std::move(samples);
    op.forward();
    return op.output();
  };
  const auto row = [&](const std::vector<float>& y, std::ptrdiff_t r) {
    return std::vector<float>(y.begin() + r * 64, y.begin() + (r + 1) * 64);
  };
  const auto first = draw(1, 1, {10, 11, 12});
  const auto moved = draw(1, 1, {12, 10, 99});
  EXPECT_EQ(row(first, 2), row(moved, 0));
  EXPECT_EQ(row(first, 0), row(moved, 1));
  EXPECT_NE(row(first, 0), row(first, 1));
  EXPECT_NE(first, draw(2, 1, {10, 11, 12}));
  EXPECT_NE(first, draw(1, 2, {10, 11, 12}));
}

TEST(CpuElementwise, DropoutOfAnEmptyRowIsZeroAlsoBackwards) {
  for (const std::int64_t valid : {0, 1, 2}) {
    CpuOp op(cpu::make_dropout, {DropoutAttrs{0.1}, {Shape{8, 2, 3}}, 8, 3, valid});
    auto x = random_floats(op.input_elements(0), 3);
    for (std::int64_t i = valid * 48; i < 3 * 48; ++i) x[at(i)] = nan;  // also whatever an empty row may hold
    op.set_input(0, x);
    op.set_diff_output(random_floats(op.output_elements(), 4));
    op.forward();
    op.backward();
    for (std::int64_t i = valid * 48; i < 3 * 48; ++i) {
      ASSERT_EQ(op.output()[at(i)], 0);
      ASSERT_EQ(op.diff_input(0)[at(i)], 0);
    }
  }
}

}  // namespace
}  // namespace lockstep::op_test
