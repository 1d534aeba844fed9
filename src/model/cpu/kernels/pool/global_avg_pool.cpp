#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {
namespace {

/// Planes of (pixels, block). Four pixels are added in float32, the rest in float64.
LOCKSTEP_CLONES void mean_of_pixels(const float* x, float* y, std::int64_t planes, std::int64_t pixels,
                                    std::int64_t block) {
  const auto count = static_cast<double>(pixels);
  for (std::int64_t plane = 0; plane < planes; ++plane) {
    const float* in = x + plane * pixels * block;
    float* out = y + plane * block;
    const auto strip = [=](std::int64_t lane, auto width) {
      double total[lanes] = {};
      std::int64_t p = 0;
      for (; p + 4 <= pixels; p += 4) {
        const float* at = in + p * block + lane;
        for (std::int64_t l = 0; l < width; ++l) {
          total[l] += static_cast<double>((at[l] + at[block + l]) + (at[2 * block + l] + at[3 * block + l]));
        }
      }
      for (; p < pixels; ++p) {
        const float* at = in + p * block + lane;
        for (std::int64_t l = 0; l < width; ++l) total[l] += static_cast<double>(at[l]);
      }
      for (std::int64_t l = 0; l < width; ++l) out[lane + l] = static_cast<float>(total[l] / count);
    };
    std::int64_t lane = 0;
    for (; lane + lanes <= block; lane += lanes) strip(lane, std::integral_constant<std::int64_t, lanes>{});
    if (lane < block) strip(lane, block - lane);
  }
}

LOCKSTEP_CLONES void spread_over_pixels(const float* diff, float* dx, std::int64_t planes,
                                        std::int64_t pixels, std::int64_t block) {
  const auto count = static_cast<float>(pixels);
  for (std::int64_t plane = 0; plane < planes; ++plane) {
    const float* from = diff + plane * block;
    float* to = dx + plane * pixels * block;
    if (block == 1) {
      std::fill_n(to, pixels, from[0] / count);
      continue;
    }
    for (std::int64_t l = 0; l < block; ++l) to[l] = from[l] / count;
    for (std::int64_t p = 1; p < pixels; ++p) std::copy_n(to, block, to + p * block);
  }
}

class GlobalAvgPool final : public OwnKernel {
 public:
  explicit GlobalAvgPool(const KernelSpec& spec)
      : OwnKernel("global_avg_pool", spec, split_rows(spec)),
        blocks_(spec.inputs.at(0).channels / spec.inputs.at(0).block),
        pixels_(spec.inputs.at(0).height * spec.inputs.at(0).width),
        block_(spec.inputs.at(0).block) {
    require(spec.output.channels == spec.inputs[0].channels && spec.output.height * spec.output.width == 1,
            "global average pooling leaves one pixel");
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range planes = planes_of(task);
    const float* x = floats(ctx.arena, at.inputs[0]) + planes.begin * pixels_ * block_;
    float* y = floats(ctx.arena, at.output) + planes.begin * block_;
    if (block_ > 1) {
      mean_of_pixels(x, y, planes.size(), pixels_, block_);
      return;
    }
    for (std::int64_t plane = 0; plane < planes.size(); ++plane) {
      y[plane] = static_cast<float>(sum(x + plane * pixels_, pixels_) / static_cast<double>(pixels_));
    }
  }

  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    float* dx = diff_input(at, ctx, 0);
    if (dx == nullptr) return;
    const Range planes = planes_of(task);
    spread_over_pixels(floats(ctx.arena, at.diff_output) + planes.begin * block_,
                       dx + planes.begin * pixels_ * block_, planes.size(), pixels_, block_);
  }

 private:
  Range planes_of(int task) const {
    const Range rows = split().part(task);
    return {rows.begin * blocks_, rows.end * blocks_};
  }

  std::int64_t blocks_, pixels_, block_;
};

}  // namespace

std::unique_ptr<Kernel> make_global_avg_pool(const KernelSpec& spec) {
  return std::make_unique<GlobalAvgPool>(spec);
}

}  // namespace lockstep::cpu
