#include <cstring>

#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {
namespace {

/// to[c * rows + r] = from[r * columns + c]; squares of 4 by 4 go through registers.
void transpose(const float* from, float* to, std::int64_t rows, std::int64_t columns) {
  std::int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    std::int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      const float* at = from + r * columns + c;
      const Four a = load_four(at);
      const Four b = load_four(at + columns);
      const Four d = load_four(at + 2 * columns);
      const Four e = load_four(at + 3 * columns);
      const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      const Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Four de_low = __builtin_shufflevector(d, e, 0, 4, 1, 5);
      const Four de_high = __builtin_shufflevector(d, e, 2, 6, 3, 7);
      float* out = to + c * rows + r;
      store_four(out, __builtin_shufflevector(ab_low, de_low, 0, 1, 4, 5));
      store_four(out + rows, __builtin_shufflevector(ab_low, de_low, 2, 3, 6, 7));
      store_four(out + 2 * rows, __builtin_shufflevector(ab_high, de_high, 0, 1, 4, 5));
      store_four(out + 3 * rows, __builtin_shufflevector(ab_high, de_high, 2, 3, 6, 7));
    }
    for (; c < columns; ++c) {
      for (std::int64_t i = r; i < r + 4; ++i) to[c * rows + i] = from[i * columns + c];
    }
  }
  for (; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
  }
}

/// From the layout of the input to plain (channels, height, width), a copy where they are the same. Nothing
/// happens where both are the same memory.
class Flatten final : public OwnKernel {
 public:
  explicit Flatten(const KernelSpec& spec)
      : OwnKernel("flatten", spec, split_rows(spec)),
        elements_(spec.output.elements()),
        pixels_(spec.inputs.at(0).height * spec.inputs.at(0).width),
        block_(spec.inputs.at(0).block),
        copy_(spec.inputs.at(0).plain()) {
    require(spec.output.plain() && spec.inputs[0].elements() == elements_,
            "flatten writes the plain layout, element by element");
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    move(task, floats(ctx.arena, at.inputs[0]), floats(ctx.arena, at.output), pixels_, block_);
  }

  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    if (float* dx = diff_input(at, ctx, 0))
      move(task, floats(ctx.arena, at.diff_output), dx, block_, pixels_);
  }

 private:
  /// Every block is a matrix of (from_rows, from_columns) that is transposed.
  void move(int task, const float* from, float* to, std::int64_t from_rows, std::int64_t from_columns) const {
    const Range rows = split().part(task);
    const std::int64_t begin = rows.begin * elements_;
    const std::int64_t end = rows.end * elements_;
    if (copy_) {
      if (from != to)
        std::memcpy(to + begin, from + begin, static_cast<std::size_t>(end - begin) * sizeof(float));
      return;
    }
    const std::int64_t matrix = from_rows * from_columns;
    for (std::int64_t i = begin; i < end; i += matrix) transpose(from + i, to + i, from_rows, from_columns);
  }

  std::int64_t elements_, pixels_, block_;
  bool copy_;
};

}  // namespace

std::unique_ptr<Kernel> make_flatten(const KernelSpec& spec) {
  return std::make_unique<Flatten>(spec);
}

}  // namespace lockstep::cpu
