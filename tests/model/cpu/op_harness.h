#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/index.h"
#include "model/cpu/kernels/kernel.h"
#include "model/cpu/kernels/kernel_table.h"
#include "model/graph/op_table.h"
#include "model/zoo/graph_builder.h"
#include "support/malloc_count.h"

namespace lockstep::op_test {

/// 2^-24: half the distance of neighbouring float32 around 1; one rounding errs by at most this, relatively.
inline constexpr double unit = 1.0 / 16777216.0;

/// Block 0 stands for channels-last.
inline cpu::ValueLayout layout_of(const Shape& shape, std::int64_t block) {
  if (shape.rank() == 1) return {shape[0], 1, 1, 1};
  return {shape[0], shape[1], shape[2], block == 0 ? shape[0] : block};
}

/// From the plain (rows, C, H, W) to the stored order of `layout`, or back.
inline void relayout(const cpu::ValueLayout& layout, std::int64_t rows, const float* from, float* to,
                     bool to_stored) {
  const std::int64_t pixels = layout.height * layout.width;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < layout.channels; ++c) {
      for (std::int64_t p = 0; p < pixels; ++p) {
        const std::int64_t plain = (r * layout.channels + c) * pixels + p;
        const std::int64_t block = c / layout.block;
        const std::int64_t stored =
            ((r * (layout.channels / layout.block) + block) * pixels + p) * layout.block + c % layout.block;
        to[to_stored ? stored : plain] = from[to_stored ? plain : stored];
      }
    }
  }
}

inline std::vector<float> random_floats(std::int64_t n, unsigned seed, float mean = 0, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw(mean, deviation);
  std::vector<float> values(at(n));
  for (float& v : values) v = draw(random);
  return values;
}

inline Tensor64 widen(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

/// Every value is finite, and within its bound of what is expected. The bound is called with the index.
inline void expect_within(const std::vector<float>& actual, const Tensor64& expected,
                          const std::function<double(std::size_t)>& bound, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_TRUE(std::isfinite(actual[i])) << what << ": element " << i << " is " << actual[i];
    ASSERT_LE(std::abs(static_cast<double>(actual[i]) - expected[i]), bound(i))
        << what << ": element " << i << " is " << actual[i] << ", expected " << expected[i];
  }
}
inline void expect_equal(const std::vector<float>& actual, const Tensor64& expected,
                         const std::string& what) {
  expect_within(
      actual, expected, [](std::size_t) { return 0.0; }, what);
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct OpSetup {
  OpAttrs attrs;
  std::vector<Shape> inputs;
  std::int64_t block = 1;  ///< of image values; 0: channels-last
  std::int64_t rows = 1;
  std::int64_t valid = 1;
  bool training = true;
  bool relu = false;
  bool residual = false;
};

/// In which order the tasks of a phase run.
enum class Order { forward, backward, mixed };

/// One op made into a kernel, with the memory that a plan would give it. Everything that a kernel must write
/// is NaN beforehand, buffers are apart by guard elements, and tensors here are plain row-major.
class CpuOp {
 public:
  using Make = std::unique_ptr<cpu::Kernel> (*)(const cpu::KernelSpec&);

  CpuOp(Make make, const OpSetup& setup) : setup_(setup) {
    OpNode node;
    node.name = "op";
    node.attrs = setup.attrs;
    std::vector<Shape> op_inputs = setup.inputs;
    if (setup.residual) op_inputs.pop_back();
    for (const Shape& shape : op_inputs) {
      node.inputs.push_back(static_cast<int>(graph_.values.size()));
      graph_.values.push_back({shape, -1});
    }
    node.output = static_cast<int>(graph_.values.size());
    graph_.values.push_back({op_entry(setup.attrs).infer(setup.attrs, op_inputs, "op"), node_index});
    if (const auto learns = setup.attrs.entry().parameters) {
      OpParameters learned = learns(setup.attrs, op_inputs, InitKind::ones);
      for (Parameter& parameter : learned.parameters) {
        node.parameters.push_back(static_cast<int>(graph_.parameters.size()));
        graph_.parameters.push_back(std::move(parameter));
      }
      for (Statistic& statistic : learned.statistics) {
        node.statistics.push_back(static_cast<int>(graph_.statistics.size()));
        graph_.statistics.push_back(std::move(statistic));
      }
    }
    graph_.nodes.resize(at(node_index));  // so that the op's number is not 0
    graph_.nodes.push_back(node);

    spec_.graph = &graph_;
    spec_.node = node_index;
    spec_.rows = setup.rows;
    spec_.training = setup.training;
    spec_.relu = setup.relu;
    spec_.residual = setup.residual;
    for (const Shape& shape : setup.inputs) spec_.inputs.push_back(layout_of(shape, setup.block));
    spec_.output = layout_of(output_shape(), setup.block);
    kernel_ = make(spec_);

    samples.resize(at(setup.rows), -1);
    for (std::int64_t r = 0; r < setup.valid; ++r) samples[at(r)] = 1000003 * r + 7;
    for (const auto& layout : spec_.inputs) {
      binding_.inputs.push_back(take(setup.rows * layout.elements()));
      binding_.diff_inputs.push_back(take(setup.rows * layout.elements()));
    }
    binding_.output = take(output_elements());
    binding_.diff_output = take(output_elements());
    binding_.saved = take(static_cast<std::int64_t>((kernel_->needs().saved + 3) / 4));
    arena_.assign(floats_, guard);
    scratch_.resize(kernel_->needs().scratch + 64);
    for (std::size_t i = 0; i < kernel_->needs().parameter_storage.size(); ++i) {
      binding_.parameters.push_back(flat(kernel_->needs().parameter_storage[i]));
    }
    for (const int s : node.statistics) {
      binding_.statistics.push_back(flat(graph_.statistics[at(s)].shape.elements()));
    }
    parameters.assign(at(flat_ + 1), 0);
    gradients.assign(at(flat_ + 1), guard);
    refresh();
  }

  const cpu::Kernel& kernel() const { return *kernel_; }
  cpu::Binding& binding() { return binding_; }
  const Graph& graph() const { return graph_; }
  const OpNode& node() const { return graph_.nodes.back(); }
  const Shape& output_shape() const { return graph_.values.back().shape; }
  std::int64_t output_elements() const { return setup_.rows * output_shape().elements(); }
  std::int64_t input_elements(std::size_t i) const { return setup_.rows * setup_.inputs[i].elements(); }

  void set_input(std::size_t i, const std::vector<float>& plain) {
    ASSERT_EQ(plain.size(), at(input_elements(i)));
    relayout(spec_.inputs[i], setup_.rows, plain.data(), buffer(binding_.inputs[i]), true);
  }
  void set_diff_output(const std::vector<float>& plain) {
    ASSERT_EQ(plain.size(), at(output_elements()));
    relayout(spec_.output, setup_.rows, plain.data(), buffer(binding_.diff_output), true);
  }
  std::vector<float> output() { return plain_of(spec_.output, binding_.output); }
  std::vector<float> diff_input(std::size_t i) { return plain_of(spec_.inputs[i], diff_offsets_[i]); }

  void forward(Order order = Order::forward) {
    poison(binding_.output, output_elements());
    poison(binding_.saved, static_cast<std::int64_t>((kernel_->needs().saved + 3) / 4));
    run(kernel_->forward_phases(), order, [&](int phase, int task, const cpu::TaskContext& ctx) {
      kernel_->forward(phase, task, binding_, ctx);
    });
  }
  void backward(Order order = Order::forward) {
    for (std::size_t i = 0; i < diff_offsets_.size(); ++i) poison(diff_offsets_[i], input_elements(i));
    run(kernel_->backward_phases(), order, [&](int phase, int task, const cpu::TaskContext& ctx) {
      kernel_->backward(phase, task, binding_, ctx);
    });
  }

  ReferenceContext reference_context() const {
    return {setup_.rows,    setup_.valid, samples, seed, step, static_cast<std::uint32_t>(node_index),
            setup_.training};
  }
  /// What nobody may have written still holds the guard.
  void expect_guards() const {
    std::size_t next = 0;
    for (const auto& [begin, end] : taken_) {
      for (; next < begin; ++next) ASSERT_EQ(arena_[next], guard) << "written before float " << begin;
      next = end;
    }
    for (; next < arena_.size(); ++next) ASSERT_EQ(arena_[next], guard);
    ASSERT_EQ(gradients.back(), guard);
  }

  std::vector<float> parameters, gradients;  ///< flat
  std::vector<std::int64_t> samples;
  std::uint64_t seed = 42, step = 3;

 private:
  static constexpr int node_index = 5;
  static constexpr float guard = 12345.0f;

  std::size_t take(std::int64_t count) {
    floats_ += 16;
    const std::size_t begin = floats_;
    floats_ += (at(count) + 15) / 16 * 16;
    taken_.emplace_back(begin, begin + at(count));
    floats_ += 16;
    return begin * sizeof(float);
  }
  std::int64_t flat(std::int64_t count) {
    const std::int64_t begin = flat_;
    flat_ += (count + 15) / 16 * 16;
    return begin;
  }
  float* buffer(std::size_t offset) { return arena_.data() + offset / sizeof(float); }
  void poison(std::size_t offset, std::int64_t count) {
    std::fill_n(buffer(offset), count, std::numeric_limits<float>::quiet_NaN());
  }
  std::vector<float> plain_of(const cpu::ValueLayout& layout, std::size_t offset) {
    std::vector<float> plain(at(setup_.rows * layout.elements()));
    relayout(layout, setup_.rows, buffer(offset), plain.data(), false);
    return plain;
  }
  void refresh() { diff_offsets_ = binding_.diff_inputs; }

  template <class Task>
  void run(std::span<const cpu::Phase> phases, Order order, Task task) {
    Batch batch;
    batch.rows = setup_.rows;
    batch.valid = setup_.valid;
    batch.samples = samples;
    cpu::TaskContext ctx;
    ctx.arena = reinterpret_cast<std::byte*>(arena_.data());
    ctx.scratch = scratch_.data();
    ctx.parameters = parameters.data();
    ctx.gradients = gradients.data();
    ctx.batch = &batch;
    ctx.seed = seed;
    ctx.step = step;
    const std::size_t before = test::malloc_count();
    for (std::size_t p = 0; p < phases.size(); ++p) {
      const int tasks = phases[p].tasks;
      for (int i = 0; i < tasks; ++i) {
        const int mixed = i % 2 == 0 ? i / 2 : tasks - 1 - i / 2;
        const int number = order == Order::forward ? i : order == Order::backward ? tasks - 1 - i : mixed;
        std::fill(scratch_.begin(), scratch_.end(), std::byte{0xA5});
        task(static_cast<int>(p), number, ctx);
      }
    }
    EXPECT_EQ(test::malloc_count(), before) << "a kernel allocated memory";
    expect_guards();
  }

  OpSetup setup_;
  Graph graph_;
  cpu::KernelSpec spec_;
  std::unique_ptr<cpu::Kernel> kernel_;
  cpu::Binding binding_;
  std::vector<std::size_t> diff_offsets_;
  std::vector<std::pair<std::size_t, std::size_t>> taken_;
  std::vector<float> arena_;
  std::vector<std::byte> scratch_;
  std::size_t floats_ = 0;
  std::int64_t flat_ = 0;
};

/// An op without parameters against its reference: forward and backward, in three orders of tasks with equal
/// bits. `forward_bound` and `backward_bound` are absolute, per element.
using Bound = std::function<double(std::size_t index, double expected)>;
inline void check_against_reference(CpuOp::Make make, const OpSetup& setup, const Bound& forward_bound,
                                    const Bound& backward_bound, const std::string& what) {
  SCOPED_TRACE(what);
  CpuOp op(make, setup);
  std::vector<Tensor64> inputs;
  std::vector<const Tensor64*> input_pointers;
  for (std::size_t i = 0; i < setup.inputs.size(); ++i) {
    const auto values = random_floats(op.input_elements(i), static_cast<unsigned>(3 + i));
    op.set_input(i, values);
    inputs.push_back(widen(values));
  }
  input_pointers.reserve(inputs.size());
  for (const Tensor64& t : inputs) input_pointers.push_back(&t);
  op.forward();
  const std::vector<float> output = op.output();

  Tensor64 expected;
  std::vector<Tensor64> statistics;
  const OpEntry& entry = op_entry(setup.attrs);
  entry.forward(op.node(), op.graph(), op.reference_context(), input_pointers, {}, {}, expected, statistics);
  expect_within(
      output, expected, [&](std::size_t i) { return forward_bound(i, expected[i]); }, "output");
  for (const Order order : {Order::backward, Order::mixed}) {
    op.forward(order);
    EXPECT_TRUE(same_bits(output, op.output())) << "the order of tasks changed the output";
  }
  if (!setup.training) return;

  const auto diff = random_floats(op.output_elements(), 17);
  op.set_diff_output(diff);
  op.backward();
  std::vector<Tensor64> diffs;
  std::vector<Tensor64*> diff_pointers;
  diffs.reserve(inputs.size());
  diff_pointers.reserve(inputs.size());
  for (const Tensor64& t : inputs) diffs.emplace_back(t.size(), 0.0);
  for (Tensor64& t : diffs) diff_pointers.push_back(&t);
  // The kernel's own output, so that only the backward pass is judged.
  entry.backward(op.node(), op.graph(), op.reference_context(), input_pointers, {}, widen(output),
                 widen(diff), diff_pointers, {});
  std::vector<std::vector<float>> actual;
  for (std::size_t i = 0; i < diffs.size(); ++i) {
    actual.push_back(op.diff_input(i));
    expect_within(
        actual[i], diffs[i], [&](std::size_t e) { return backward_bound(e, diffs[i][e]); },
        "gradient of input " + std::to_string(i));
  }
  for (const Order order : {Order::backward, Order::mixed}) {
    op.backward(order);
    for (std::size_t i = 0; i < diffs.size(); ++i) {
      EXPECT_TRUE(same_bits(actual[i], op.diff_input(i))) << "the order of tasks changed a gradient";
    }
  }
  // Nobody needs a gradient: nothing is written, nothing crashes.
  op.binding().diff_inputs.assign(setup.inputs.size(), cpu::none);
  op.backward();
  for (std::size_t i = 0; i < diffs.size(); ++i) {
    for (const float v : op.diff_input(i)) ASSERT_TRUE(std::isnan(v));
  }
}

}  // namespace lockstep::op_test
