#pragma once

#include <algorithm>
#include <string>

#include "model/cpu/kernels/own_kernel.h"
#include "model/graph/loss_sums.h"
#include "model/graph/op_entry.h"

namespace lockstep::cpu {

/// A loss: forward() writes LossSums of every valid row to `saved` and, where the spec is of training, the
/// gradient of their sum to diff_inputs[0] (not divided by a count); rows that are not valid get 0. One task.
/// There is no backward pass.
class LossKernel : public OwnKernel {
 public:
  LossKernel(const std::string& name, const KernelSpec& spec)
      : OwnKernel(name, spec, TaskSplit{1, 1}),
        width_(spec.inputs.at(0).elements()),
        each_(spec.op()
                  .attrs.entry()
                  .loss->answer_shape(spec.graph->shape_of(spec.op().inputs.at(0)))
                  .elements()),
        field_(static_cast<std::size_t>(spec.op().fields.at(0))) {
    needs_.saved = static_cast<std::size_t>(spec.rows) * sizeof(LossSums);
  }

  void forward(int, int, const Binding& at, const TaskContext& ctx) const final {
    const Batch& batch = *ctx.batch;
    auto* sums = reinterpret_cast<LossSums*>(ctx.arena + at.saved);
    float* diff = diff_input(at, ctx, 0);
    rows(floats(ctx.arena, at.inputs[0]), batch, diff, sums);
    if (diff != nullptr) std::fill(diff + batch.valid * width_, diff + batch.rows * width_, 0.0f);
  }
  void backward(int, int, const Binding&, const TaskContext&) const final {}
  std::span<const Phase> backward_phases() const final { return {}; }

 protected:
  std::int64_t width() const { return width_; }
  /// The numbers of the field that the loss takes, each() of every valid row.
  std::int64_t each() const { return each_; }
  template <class T>
  const T* answers(const Batch& batch) const {
    const std::span<const T> numbers = batch.field(field_).as<T>();
    require(static_cast<std::int64_t>(numbers.size()) >= batch.valid * each_,
            "every valid row has labels or targets");
    return numbers.data();
  }
  /// The valid rows. `diff` may be null.
  virtual void rows(const float* x, const Batch& batch, float* diff, LossSums* sums) const = 0;

 private:
  std::int64_t width_, each_;
  std::size_t field_;
};

/// Whether x[label] is the first maximum; false where a NaN stands.
inline bool first_maximum(const float* x, std::int64_t n, std::int64_t label) {
  const float value = x[label];
  bool all = true;
  for (std::int64_t i = 0; i < label; ++i) all = all && x[i] < value;
  for (std::int64_t i = label; i < n; ++i) all = all && x[i] <= value;
  return all;
}

}  // namespace lockstep::cpu
