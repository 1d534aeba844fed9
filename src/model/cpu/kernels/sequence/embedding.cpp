#include "model/ops/sequence/embedding.h"

#include <algorithm>

#include "model/cpu/kernels/own_kernel.h"

namespace lockstep::cpu {
namespace {

class Embedding final : public OwnKernel {
 public:
  explicit Embedding(const KernelSpec& spec)
      : OwnKernel("embedding", spec, split_rows(spec)),
        vocabulary_(attrs_of<EmbeddingAttrs>(spec).vocabulary),
        width_(attrs_of<EmbeddingAttrs>(spec).width),
        positions_(spec.inputs.at(0).elements()),
        rows_(spec.rows) {
    needs_.needs_input_in_backward = true;
  }
  // The gradient of a row of the table adds up in the order of positions: one task.
  std::span<const Phase> backward_phases() const override {
    return training() ? std::span<const Phase>{&one_, 1} : std::span<const Phase>{};
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range rows = split().part(task);
    const float* table = ctx.parameters + at.parameters[0];
    float* y = floats(ctx.arena, at.output);
    for (std::int64_t n = rows.begin * positions_; n < rows.end * positions_; ++n)
      std::copy_n(table + id(at, ctx, n) * width_, width_, y + n * width_);
  }
  void backward(int, int, const Binding& at, const TaskContext& ctx) const override {
    float* gradient = ctx.gradients + at.parameters[0];
    const float* dy = floats(ctx.arena, at.diff_output);
    std::fill_n(gradient, vocabulary_ * width_, 0.0f);
    for (std::int64_t n = 0; n < rows_ * positions_; ++n) {
      float* to = gradient + id(at, ctx, n) * width_;
      for (std::int64_t d = 0; d < width_; ++d) to[d] += dy[n * width_ + d];
    }
  }

 private:
  std::int64_t id(const Binding& at, const TaskContext& ctx, std::int64_t n) const {
    const std::int64_t id = reinterpret_cast<const std::int32_t*>(ctx.arena + at.inputs[0])[n];
    require(id >= 0 && id < vocabulary_, "a number outside the vocabulary reached an embedding");
    return id;
  }
  std::int64_t vocabulary_, width_, positions_, rows_;
  Phase one_{1};
};

}  // namespace

std::unique_ptr<Kernel> make_embedding(const KernelSpec& spec) {
  return std::make_unique<Embedding>(spec);
}

}  // namespace lockstep::cpu
