#include "model/ops/linear/matmul.h"

#include <algorithm>

#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {
namespace {

/// y[0..n) += factor * x[0..n)
LOCKSTEP_CLONES void add_scaled(float* __restrict y, const float* __restrict x, float factor,
                                std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

/// Every element of a result is one chain of additions in float32, the summed axis ascending: it depends on
/// neither the number of rows nor the lane.
class Matmul final : public OwnKernel {
 public:
  explicit Matmul(const KernelSpec& spec)
      : OwnKernel("matmul", spec, split_rows(spec)),
        shape_(spec.op().attrs, spec.graph->shape_of(spec.op().inputs[0]),
               spec.graph->shape_of(spec.op().inputs[1])) {
    needs_.needs_input_in_backward = true;
    needs_.scratch =
        static_cast<std::size_t>(std::max(shape_.k * shape_.n, shape_.m * shape_.n)) * sizeof(float);
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    for_each_product(task, [&](std::int64_t p) {
      const float* a = floats(ctx.arena, at.inputs[0]) + p * shape_.m * shape_.k;
      const float* b = floats(ctx.arena, at.inputs[1]) + p * shape_.k * shape_.n;
      float* c = floats(ctx.arena, at.output) + p * shape_.m * shape_.n;
      product(a, shape_.transposed ? transpose(b, shape_.n, shape_.k, ctx) : b, c, shape_.m, shape_.k,
              shape_.n);
    });
  }
  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    float *da = diff_input(at, ctx, 0), *db = diff_input(at, ctx, 1);
    const std::int64_t m = shape_.m, k = shape_.k, n = shape_.n;
    for_each_product(task, [&](std::int64_t p) {
      const float* a = floats(ctx.arena, at.inputs[0]) + p * m * k;
      const float* b = floats(ctx.arena, at.inputs[1]) + p * k * n;
      const float* dc = floats(ctx.arena, at.diff_output) + p * m * n;
      // da = dc b^T; db = a^T dc, or (dc^T a) where b is transposed.
      if (da != nullptr)
        product(dc, shape_.transposed ? b : transpose(b, k, n, ctx), da + p * m * k, m, n, k);
      if (db == nullptr) return;
      float* to = db + p * k * n;
      std::fill_n(to, k * n, 0.0f);
      for (std::int64_t i = 0; i < m; ++i) {
        if (shape_.transposed)
          for (std::int64_t j = 0; j < n; ++j) add_scaled(to + j * k, a + i * k, dc[i * n + j], k);
        else
          for (std::int64_t l = 0; l < k; ++l) add_scaled(to + l * n, dc + i * n, a[i * k + l], n);
      }
    });
  }

 private:
  template <class Fn>
  void for_each_product(int task, Fn fn) const {
    const Range rows = split().part(task);
    for (std::int64_t p = rows.begin * shape_.products; p < rows.end * shape_.products; ++p) fn(p);
  }
  static void product(const float* a, const float* b, float* c, std::int64_t m, std::int64_t k,
                      std::int64_t n) {
    std::fill_n(c, m * n, 0.0f);
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t l = 0; l < k; ++l) add_scaled(c + i * n, b + l * n, a[i * k + l], n);
  }
  static const float* transpose(const float* from, std::int64_t rows, std::int64_t columns,
                                const TaskContext& ctx) {
    auto* to = reinterpret_cast<float*>(ctx.scratch);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
    return to;
  }
  MatmulShape shape_;
};

}  // namespace

std::unique_ptr<Kernel> make_matmul(const KernelSpec& spec) {
  return std::make_unique<Matmul>(spec);
}

}  // namespace lockstep::cpu
