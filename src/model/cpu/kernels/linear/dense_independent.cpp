#include "model/cpu/kernels/linear/dense_independent.h"

#include <algorithm>
#include <utility>

#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/vector_math.h"
#include "model/ops/linear/dense.h"

namespace lockstep::cpu {
namespace {

constexpr std::int64_t panel = 64;  // outputs whose sums are held at once

/// y[r, o] = sum over i of x[r, i] w[i, o], i ascending, for `count` <= panel outputs of `rows` <= 4 rows.
LOCKSTEP_CLONES void sum_products(const float* x, std::int64_t rows, std::int64_t in, const float* w,
                                  std::int64_t out, std::int64_t count, float* y) {
  alignas(64) float sums[4][panel] = {};
  for (std::int64_t i = 0; i < in; ++i) {
    const float* from = w + i * out;
    for (std::int64_t r = 0; r < rows; ++r) {
      const float factor = x[r * in + i];
      for (std::int64_t o = 0; o < count; ++o) sums[r][o] += factor * from[o];
    }
  }
  for (std::int64_t r = 0; r < rows; ++r) std::copy_n(sums[r], count, y + r * out);
}

class IndependentDense final : public Kernel {
 public:
  IndependentDense(const KernelSpec& spec, std::unique_ptr<Kernel> stored)
      : stored_(std::move(stored)),
        in_(spec.graph->shape_of(spec.op().inputs[0]).dims().back()),
        out_(spec.graph->shape_of(spec.op().output).dims().back()),
        rows_(split_work(
            spec.rows * spec.output.elements() / out_,
            spec.rows * spec.output.elements() * in_ / 16 * static_cast<std::int64_t>(sizeof(float)))),
        bias_(attrs_of<DenseAttrs>(spec).bias),
        relu_(spec.relu) {
    needs_.parameter_storage = stored_->needs().parameter_storage;
    needs_.prepared = static_cast<std::size_t>(in_ * out_) * sizeof(float);
    needs_.scratch = needs_.prepared;
    phase_ = {rows_.tasks};
  }
  const Needs& needs() const override { return needs_; }
  std::string implementation() const override { return "lockstep:dense"; }
  std::span<const Phase> prepare_phases() const override { return {&one_, 1}; }
  std::span<const Phase> forward_phases() const override { return {&phase_, 1}; }
  std::span<const Phase> backward_phases() const override { return {}; }

  void prepare(int, int, const Binding& at, const TaskContext& ctx, std::byte* prepared) const override {
    const auto weights = static_cast<std::size_t>(in_ * out_);
    auto* plain = reinterpret_cast<float*>(ctx.scratch);
    stored_->export_plain(
        0, {ctx.parameters + at.parameters[0], static_cast<std::size_t>(needs_.parameter_storage[0])},
        {plain, weights});
    float* to = floats(prepared, at.prepared);
    for (std::int64_t o = 0; o < out_; ++o)
      for (std::int64_t i = 0; i < in_; ++i) to[i * out_ + o] = plain[o * in_ + i];
  }
  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range rows = rows_.part(task);
    const float* x = floats(ctx.arena, at.inputs[0]);
    const float* w = floats(ctx.prepared, at.prepared);
    float* y = floats(ctx.arena, at.output);
    for (std::int64_t r = rows.begin; r < rows.end; r += 4) {
      const std::int64_t count = std::min<std::int64_t>(4, rows.end - r);
      for (std::int64_t o = 0; o < out_; o += panel)
        sum_products(x + r * in_, count, in_, w + o, out_, std::min(panel, out_ - o), y + r * out_ + o);
    }
    const float* bias = bias_ ? ctx.parameters + at.parameters[1] : nullptr;
    for (std::int64_t r = rows.begin; r < rows.end; ++r)
      for (std::int64_t o = 0; o < out_; ++o) {
        float& value = y[r * out_ + o];
        if (bias != nullptr) value += bias[o];
        if (relu_ && value < 0) value = 0;
      }
  }
  void backward(int, int, const Binding&, const TaskContext&) const override {}
  void export_plain(std::size_t i, std::span<const float> stored, std::span<float> plain) const override {
    stored_->export_plain(i, stored, plain);
  }
  void import_plain(std::size_t i, std::span<const float> plain, std::span<float> stored) const override {
    stored_->import_plain(i, plain, stored);
  }

 private:
  std::unique_ptr<Kernel> stored_;
  std::int64_t in_, out_;
  TaskSplit rows_;
  bool bias_, relu_;
  Phase one_{1}, phase_;
  Needs needs_;
};

}  // namespace

std::unique_ptr<Kernel> make_independent_dense(const KernelSpec& spec, std::unique_ptr<Kernel> stored) {
  return std::make_unique<IndependentDense>(spec, std::move(stored));
}

}  // namespace lockstep::cpu
