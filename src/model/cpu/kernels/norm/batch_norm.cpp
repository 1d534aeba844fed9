#include "model/ops/norm/batch_norm.h"

#include <cmath>

#include "model/cpu/kernels/norm/batch_norm_loops.h"
#include "model/cpu/kernels/own_kernel.h"

namespace lockstep::cpu {
namespace {

/// The channels of a value in strips of 16 lanes or fewer that are worked on together. In a block of 1, 2, 4,
/// 8 or 16 channels the 16 lanes are 16 neighbouring elements, lane l of channel l % block; in a wider or odd
/// block a strip is up to 16 of its channels. Values of one pixel (features) are rows of one wide block, and
/// then the groups of a run are the rows.
class Strips {
 public:
  explicit Strips(const ValueLayout& x) : row_(x.elements()), area_(x.height * x.width) {
    block_ = area_ == 1 ? x.channels : x.block;
    narrow_ = area_ > 1 && lanes % block_ == 0;
    per_block_ = narrow_ ? 1 : (block_ + lanes - 1) / lanes;
    count_ = x.channels / block_ * per_block_;
  }

  std::int64_t count() const { return count_; }
  std::int64_t area() const { return area_; }
  std::int64_t first_channel(std::int64_t strip) const {
    return strip / per_block_ * block_ + strip % per_block_ * lanes;
  }
  /// Channels of the strip; lane l belongs to first_channel(strip) + l % width(strip).
  std::int64_t width(std::int64_t strip) const {
    return narrow_ ? block_ : std::min(lanes, block_ - strip % per_block_ * lanes);
  }
  /// Offset of the strip's first element in row 0: pixel 0 of its first channel.
  std::int64_t base(std::int64_t strip) const {
    return strip / per_block_ * block_ * area_ + strip % per_block_ * lanes;
  }

  /// What the strip has in rows [begin, end), last rows first when `backwards`: a pass that starts where the
  /// one before ended finds the cache warm.
  StripRun run(std::int64_t strip, Range rows, bool backwards = false) const {
    StripRun r;
    r.width = width(strip);
    if (area_ == 1) {
      r.offset = base(strip) + rows.begin * row_;
      r.rows = rows.size() > 0 ? 1 : 0;
      r.groups = rows.size();
      r.stride = row_;
      return r;
    }
    r.offset = base(strip) + (backwards ? rows.end - 1 : rows.begin) * row_;
    r.rows = rows.size();
    r.row_stride = backwards ? -row_ : row_;
    r.groups = area_;
    r.stride = block_;
    if (narrow_) {
      r.groups = area_ * block_ / lanes;
      r.stride = r.width = lanes;
      r.tail = area_ * block_ % lanes;
    }
    return r;
  }

  /// Sums what the lanes of each channel hold; the result stands in the first width(strip) lanes.
  void fold(std::int64_t strip, double (&values)[lanes]) const {
    const std::int64_t w = width(strip);
    for (std::int64_t l = w; narrow_ && l < lanes; ++l) values[l % w] += values[l];
  }

 private:
  std::int64_t row_, area_;
  std::int64_t block_ = 1, per_block_ = 1, count_ = 0;
  bool narrow_ = false;
};

/// Batch norm over the valid rows of a slice, with the residual addition and the ReLU that may follow it. A
/// task owns whole channels, so one phase computes the statistics and then applies them.
///
/// Statistics: sums of x - x[0] and of its square in float64 (x[0]: the channel's first element), so mean and
/// variance are correct to float32 rounding also where the mean is large against the deviation. The mean is
/// then rounded to float32, which shifts outputs by at most |mean| * 2^-24 / deviation.
class BatchNorm final : public OwnKernel {
 public:
  explicit BatchNorm(const KernelSpec& spec)
      : OwnKernel(std::string("batch_norm") + (spec.residual ? "+add" : "") + (spec.relu ? "+relu" : ""),
                  spec, split_of(spec)),
        strips_(spec.output),
        rows_(spec.rows),
        channels_(spec.output.channels),
        epsilon_(attrs_of<BatchNormAttrs>(spec).epsilon),
        residual_(spec.residual),
        relu_(spec.relu),
        gate_(!spec.relu      ? Gate::open
              : spec.residual ? Gate::output
                              : Gate::computed) {
    require(spec.inputs.size() == (residual_ ? 2u : 1u), "batch norm takes one input, and the residual");
    for (const ValueLayout& input : spec.inputs) {
      require(input == spec.output, "batch norm keeps the layout of its inputs");
    }
    needs_.parameter_storage = {channels_, channels_};
    if (training()) {
      needs_.saved = static_cast<std::size_t>(2 * channels_) * sizeof(float);
      needs_.needs_input_in_backward = true;
      needs_.needs_output_in_backward = gate_ == Gate::output;
    }
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range mine = split().part(task);
    for (std::int64_t strip = mine.begin; strip < mine.end; ++strip) forward_strip(strip, at, ctx);
  }

  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range mine = split().part(task);
    for (std::int64_t strip = mine.begin; strip < mine.end; ++strip) backward_strip(strip, at, ctx);
  }

 private:
  static TaskSplit split_of(const KernelSpec& spec) {
    return split_work(Strips(spec.output).count(),
                      spec.rows * spec.output.elements() * static_cast<std::int64_t>(sizeof(float)));
  }

  /// Constants per lane from the float32 mean and inverse deviation of each channel. Forward and backward
  /// compute the same bits, which Gate::computed relies on.
  StripAffine affine_of(std::int64_t strip, const float* mean, const float* inverse, const Binding& at,
                        const TaskContext& ctx) const {
    const std::int64_t first = strips_.first_channel(strip);
    const std::int64_t width = strips_.width(strip);
    const float* weight = ctx.parameters + at.parameters[0] + first;
    const float* bias = ctx.parameters + at.parameters[1] + first;
    StripAffine a;
    for (std::int64_t l = 0; l < lanes; ++l) {
      const std::int64_t c = l % width;
      a.mean[l] = mean[c];
      a.scale[l] = weight[c] * inverse[c];
      a.bias[l] = bias[c];
    }
    return a;
  }

  void forward_strip(std::int64_t strip, const Binding& at, const TaskContext& ctx) const {
    const float* x = floats(ctx.arena, at.inputs[0]);
    const float* added = residual_ ? floats(ctx.arena, at.inputs[1]) : nullptr;
    float* y = floats(ctx.arena, at.output);
    float mean[lanes];
    float inverse[lanes];
    if (training()) {
      batch_statistics(strip, x, at, ctx, mean, inverse);
      if (ctx.batch->valid == 0) {
        zero(strip, {0, rows_}, y);
        return;
      }
    } else {
      const std::int64_t first = strips_.first_channel(strip);
      for (std::int64_t c = 0; c < strips_.width(strip); ++c) {
        mean[c] = ctx.parameters[at.statistics[0] + first + c];
        inverse[c] = inverse_deviation(static_cast<double>(ctx.parameters[at.statistics[1] + first + c]));
      }
    }
    const StripAffine affine = affine_of(strip, mean, inverse, at, ctx);
    normalise(x, added, y, strips_.run(strip, {0, rows_}, true), affine, relu_);
  }

  float inverse_deviation(double variance) const {
    return static_cast<float>(1.0 / std::sqrt(variance + epsilon_));
  }

  /// Mean and inverse deviation of the strip's channels, also into `saved`; the weighted running statistics
  /// of this slice into the gradients.
  void batch_statistics(std::int64_t strip, const float* x, const Binding& at, const TaskContext& ctx,
                        float* mean, float* inverse) const {
    const std::int64_t first = strips_.first_channel(strip);
    const std::int64_t width = strips_.width(strip);
    const std::int64_t valid = ctx.batch->valid;
    StripMoments moments;
    if (valid > 0) {
      for (std::int64_t l = 0; l < lanes; ++l) {
        moments.shift[l] = static_cast<double>(x[strips_.base(strip) + l % width]);
      }
    }
    add_moments(x, strips_.run(strip, {0, valid}), moments);
    strips_.fold(strip, moments.sum);
    strips_.fold(strip, moments.squares);

    const auto count = static_cast<double>(valid * strips_.area());
    const auto weight = static_cast<double>(valid);
    float* saved_mean = floats(ctx.arena, at.saved) + first;
    float* saved_inverse = saved_mean + channels_;
    for (std::int64_t c = 0; c < width; ++c) {
      double m = 0;
      double variance = 0;
      double unbiased = 0;
      if (valid > 0) {
        const double shifted = moments.sum[c] / count;
        m = moments.shift[c] + shifted;
        variance = moments.squares[c] / count - shifted * shifted;
        variance = variance < 0 ? 0 : variance;  // rounding; NaN stays
        // One element has no unbiased variance; 0 keeps the running value finite.
        unbiased = count > 1 ? variance * (count / (count - 1)) : variance * 0;
      }
      saved_mean[c] = mean[c] = static_cast<float>(m);
      saved_inverse[c] = inverse[c] = inverse_deviation(variance);
      ctx.gradients[at.statistics[0] + first + c] = static_cast<float>(weight * m);
      ctx.gradients[at.statistics[1] + first + c] = static_cast<float>(weight * unbiased);
    }
  }

  void zero(std::int64_t strip, Range rows, float* y) const {
    // (x - 0) * 0 + 0 would keep a NaN of an empty row, so the zeros are written, not computed.
    const StripRun run = strips_.run(strip, rows);
    for (std::int64_t row = 0; row < run.rows; ++row) {
      float* of_row = y + run.offset + row * run.row_stride;
      for (std::int64_t g = 0; g < run.groups; ++g) std::fill_n(of_row + g * run.stride, run.width, 0.0f);
      std::fill_n(of_row + run.groups * run.stride, run.tail, 0.0f);
    }
  }

  void backward_strip(std::int64_t strip, const Binding& at, const TaskContext& ctx) const {
    const float* x = floats(ctx.arena, at.inputs[0]);
    const float* y = gate_ == Gate::output ? floats(ctx.arena, at.output) : x;
    const float* diff = floats(ctx.arena, at.diff_output);
    const std::int64_t first = strips_.first_channel(strip);
    const std::int64_t width = strips_.width(strip);
    const std::int64_t valid = ctx.batch->valid;
    const float* mean = floats(ctx.arena, at.saved) + first;
    const float* inverse = mean + channels_;
    const StripAffine affine = affine_of(strip, mean, inverse, at, ctx);

    StripGradients gradients;
    add_gradients(x, y, diff, strips_.run(strip, {0, valid}), affine, gate_, gradients);
    strips_.fold(strip, gradients.sum);
    strips_.fold(strip, gradients.products);

    const auto count = static_cast<double>(std::max<std::int64_t>(1, valid * strips_.area()));
    StripCorrection correction;
    for (std::int64_t l = 0; l < lanes; ++l) {
      const std::int64_t c = l % width;
      const auto deviation = static_cast<double>(inverse[c]);
      correction.of_mean[l] = static_cast<float>(gradients.sum[c] / count);
      correction.of_variance[l] = static_cast<float>(gradients.products[c] * deviation * deviation / count);
      if (l < width) {
        ctx.gradients[at.parameters[0] + first + c] = static_cast<float>(gradients.products[c] * deviation);
        ctx.gradients[at.parameters[1] + first + c] = static_cast<float>(gradients.sum[c]);
      }
    }

    float* dx = diff_input(at, ctx, 0);
    float* gated = residual_ ? diff_input(at, ctx, 1) : nullptr;
    if (dx == nullptr && gated == nullptr) return;
    if (dx != nullptr) zero(strip, {valid, rows_}, dx);
    if (gated != nullptr) zero(strip, {valid, rows_}, gated);
    differentiate(x, y, diff, dx, gated, strips_.run(strip, {0, valid}, true), affine, correction, gate_);
  }

  Strips strips_;
  std::int64_t rows_, channels_;
  double epsilon_;
  bool residual_, relu_;
  Gate gate_;
};

}  // namespace

std::unique_ptr<Kernel> make_batch_norm(const KernelSpec& spec) {
  return std::make_unique<BatchNorm>(spec);
}

}  // namespace lockstep::cpu
