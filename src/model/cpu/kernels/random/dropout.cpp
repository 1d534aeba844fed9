#include "model/ops/random/dropout.h"

#include <cmath>

#include "core/numerics/philox.h"
#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {
namespace {

/// keep[e] = whether element first + e of sample `sample` is kept, for a whole number of Philox blocks:
/// `first` and `count` are multiples of 64. The rounds of core/numerics/philox.h on 16 counters side by side.
LOCKSTEP_CLONES void draw(PhiloxKey key, std::uint64_t sample, std::int64_t first, std::int64_t count,
                          std::uint32_t threshold, std::uint8_t* keep) {
  for (std::int64_t e = 0; e < count; e += 4 * lanes) {
    const auto block = static_cast<std::uint64_t>(first + e) / 4;
    std::uint32_t c0[lanes];
    std::uint32_t c1[lanes];
    std::uint32_t c2[lanes];
    std::uint32_t c3[lanes];
    for (std::int64_t l = 0; l < lanes; ++l) {
      c0[l] = static_cast<std::uint32_t>(sample);
      c1[l] = static_cast<std::uint32_t>(sample >> 32);
      // A multiple of 16 plus less than 16: nothing is carried into the upper word.
      c2[l] = static_cast<std::uint32_t>(block) + static_cast<std::uint32_t>(l);
      c3[l] = static_cast<std::uint32_t>(block >> 32);
    }
    PhiloxKey round_key = key;
    for (int round = 0; round < 10; ++round) {
      for (std::int64_t l = 0; l < lanes; ++l) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0[l];
        const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2[l];
        const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1[l] ^ round_key.k0;
        const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3[l] ^ round_key.k1;
        c0[l] = n0;
        c1[l] = static_cast<std::uint32_t>(p1);
        c2[l] = n2;
        c3[l] = static_cast<std::uint32_t>(p0);
      }
      round_key.k0 += 0x9E3779B9u;
      round_key.k1 += 0xBB67AE85u;
    }
    std::uint8_t* out = keep + e;
    for (std::int64_t l = 0; l < lanes; ++l) {
      out[4 * l] = (c0[l] >> 8) >= threshold;
      out[4 * l + 1] = (c1[l] >> 8) >= threshold;
      out[4 * l + 2] = (c2[l] >> 8) >= threshold;
      out[4 * l + 3] = (c3[l] >> 8) >= threshold;
    }
  }
}

/// y = x * scale where kept, else 0. x and y may be the same.
LOCKSTEP_CLONES void apply(const float* x, const std::uint8_t* keep, float scale, float* y, std::int64_t n) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) {
    // By masks: the same in every clone, and nothing of a dropped NaN is left.
    const std::uint32_t mask = 0u - static_cast<std::uint32_t>(keep[i]);
    y[i] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(x[i] * scale) & mask);
  }
}

/// The formula at DropoutAttrs. The saved mask has one byte per element, in the layout of the value.
/// uniform01(word) >= rate is (word >> 8) >= rate * 2^24: both sides are scaled by a power of two, which is
/// exact.
class Dropout final : public OwnKernel {
 public:
  explicit Dropout(const KernelSpec& spec)
      : OwnKernel("dropout", spec, split_rows(spec)),
        layout_(spec.inputs.at(0)),
        node_(static_cast<std::uint32_t>(spec.node)) {
    require(layout_ == spec.output, "dropout keeps the layout of its input");
    const double rate = attrs_of<DropoutAttrs>(spec).rate;
    require(rate >= 0 && rate < 1, "the dropout rate is at least 0 and below 1");
    threshold_ = static_cast<std::uint32_t>(std::ceil(rate * 16777216.0));
    scale_ = static_cast<float>(1.0 / (1.0 - rate));
    if (!training()) return;
    needs_.saved = static_cast<std::size_t>(spec.rows * layout_.elements());
    // The mask in plain order: whole blocks of random numbers.
    needs_.scratch = static_cast<std::size_t>((layout_.elements() + granule - 1) / granule * granule);
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range rows = split().part(task);
    const std::int64_t n = layout_.elements();
    const float* x = floats(ctx.arena, at.inputs[0]);
    float* y = floats(ctx.arena, at.output);
    if (!training()) {
      if (x != y) std::copy(x + rows.begin * n, x + rows.end * n, y + rows.begin * n);
      return;
    }
    auto* keep = reinterpret_cast<std::uint8_t*>(ctx.arena + at.saved);
    auto* drawn = reinterpret_cast<std::uint8_t*>(ctx.scratch);
    const PhiloxKey key = random_key(ctx.seed, Purpose::dropout, ctx.step, node_);
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      const std::int64_t sample = ctx.batch->samples[static_cast<std::size_t>(row)];
      std::uint8_t* of_row = keep + row * n;
      if (sample < 0) {
        std::fill_n(of_row, n, std::uint8_t{0});
      } else {
        draw(key, static_cast<std::uint64_t>(sample), 0, (n + granule - 1) / granule * granule, threshold_,
             drawn);
        to_layout(drawn, of_row);
      }
      apply(x + row * n, of_row, scale_, y + row * n, n);
    }
  }

  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    float* dx = diff_input(at, ctx, 0);
    if (dx == nullptr) return;
    const Range rows = split().part(task);
    const std::int64_t n = layout_.elements();
    const auto* keep = reinterpret_cast<const std::uint8_t*>(ctx.arena + at.saved);
    apply(floats(ctx.arena, at.diff_output) + rows.begin * n, keep + rows.begin * n, scale_,
          dx + rows.begin * n, rows.size() * n);
  }

 private:
  static constexpr std::int64_t granule = 4 * lanes;

  /// From plain order to the order in which the value is stored.
  void to_layout(const std::uint8_t* plain, std::uint8_t* stored) const {
    if (layout_.plain()) {
      std::copy_n(plain, layout_.elements(), stored);
      return;
    }
    const std::int64_t pixels = layout_.height * layout_.width;
    for (std::int64_t first = 0; first < layout_.channels; first += layout_.block) {
      for (std::int64_t p = 0; p < pixels; ++p) {
        for (std::int64_t c = 0; c < layout_.block; ++c) *stored++ = plain[(first + c) * pixels + p];
      }
    }
  }

  ValueLayout layout_;
  std::uint32_t node_;
  std::uint32_t threshold_ = 0;
  float scale_ = 1;
};

}  // namespace

std::unique_ptr<Kernel> make_dropout(const KernelSpec& spec) {
  return std::make_unique<Dropout>(spec);
}

}  // namespace lockstep::cpu
