#include "model/ops/pool/avg_pool.h"

#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/pool/pool_window.h"

namespace lockstep::cpu {
namespace {

LOCKSTEP_CLONES void forward_planes(const PoolShape& shape, std::int64_t planes, const float* x, float* y) {
  const PoolShape s = shape;
  for (std::int64_t plane = 0; plane < planes; ++plane) {
    const float* in = x + plane * s.plane();
    float* out = y + plane * s.out_plane();
    for_each_window(s, [&](auto w) {
      const float* corner = in + w.in;
      const auto taps = static_cast<float>((w.v.high - w.v.low) * (w.h.high - w.h.low));
      float total[lanes] = {};
      with_taps(s, w, [&](auto v_low, auto v_high, auto h_low, auto h_high, auto) {
        for (std::int64_t ky = v_low; ky < v_high; ++ky) {
          // Row by row: the rounding error grows with height plus width of the window, not with their
          // product.
          float line[lanes] = {};
          for (std::int64_t kx = h_low; kx < h_high; ++kx) {
            const float* tap = corner + (ky * s.width + kx) * s.block;
            for (std::int64_t l = 0; l < w.count; ++l) line[l] += tap[l * w.step];
          }
          for (std::int64_t l = 0; l < w.count; ++l) total[l] += line[l];
        }
      });
      for (std::int64_t l = 0; l < w.count; ++l) out[w.out + l] = total[l] / taps;
    });
  }
}

/// Windows in row-major order, so what overlapping windows add to one element has a fixed order.
LOCKSTEP_CLONES void backward_planes(const PoolShape& shape, std::int64_t planes, const float* diff,
                                     float* dx) {
  const PoolShape s = shape;
  for (std::int64_t plane = 0; plane < planes; ++plane) {
    float* in = dx + plane * s.plane();
    const float* out = diff + plane * s.out_plane();
    std::fill_n(in, s.plane(), 0.0f);
    for_each_window(s, [&](auto w) {
      float* corner = in + w.in;
      const auto taps = static_cast<float>((w.v.high - w.v.low) * (w.h.high - w.h.low));
      float share[lanes];
      for (std::int64_t l = 0; l < w.count; ++l) share[l] = out[w.out + l] / taps;
      with_taps(s, w, [&](auto v_low, auto v_high, auto h_low, auto h_high, auto) {
        for (std::int64_t ky = v_low; ky < v_high; ++ky) {
          for (std::int64_t kx = h_low; kx < h_high; ++kx) {
            float* tap = corner + (ky * s.width + kx) * s.block;
            for (std::int64_t l = 0; l < w.count; ++l) tap[l * w.step] += share[l];
          }
        }
      });
    });
  }
}

class AvgPool final : public OwnKernel {
 public:
  explicit AvgPool(const KernelSpec& spec)
      : OwnKernel("avg_pool", spec, split_rows(spec)),
        shape_(pool_shape(spec, attrs_of<AvgPoolAttrs>(spec))) {}

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range planes = planes_of(task);
    forward_planes(shape_, planes.size(), floats(ctx.arena, at.inputs[0]) + planes.begin * shape_.plane(),
                   floats(ctx.arena, at.output) + planes.begin * shape_.out_plane());
  }

  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    float* dx = diff_input(at, ctx, 0);
    if (dx == nullptr) return;
    const Range planes = planes_of(task);
    backward_planes(shape_, planes.size(),
                    floats(ctx.arena, at.diff_output) + planes.begin * shape_.out_plane(),
                    dx + planes.begin * shape_.plane());
  }

 private:
  Range planes_of(int task) const {
    const Range rows = split().part(task);
    return {rows.begin * shape_.blocks, rows.end * shape_.blocks};
  }

  PoolShape shape_;
};

}  // namespace

std::unique_ptr<Kernel> make_avg_pool(const KernelSpec& spec) {
  return std::make_unique<AvgPool>(spec);
}

}  // namespace lockstep::cpu
