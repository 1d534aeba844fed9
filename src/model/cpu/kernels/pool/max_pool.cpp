#include "model/ops/pool/max_pool.h"

#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/pool/pool_window.h"

namespace lockstep::cpu {
namespace {

// The first maximum of a window wins; a NaN beats every number, and the last NaN wins. A winner
// is the number of a tap within its window, ky * kernel_w + kx.

/// Any number of lanes, any step between them.
template <class Step, class Count>
LOCKSTEP_INLINE void find_winners(const PoolShape& s, const Windows<Step, Count>& w, const float* corner,
                                  float* best, std::int32_t* winner) {
  with_taps(s, w, [&](auto v_low, auto v_high, auto h_low, auto h_high, auto kernel_w) {
    const float* first = corner + (v_low * s.width + h_low) * s.block;
    for (std::int64_t l = 0; l < w.count; ++l) {
      best[l] = first[l * w.step];
      winner[l] = static_cast<std::int32_t>(v_low * kernel_w + h_low);
    }
    for (std::int64_t ky = v_low; ky < v_high; ++ky) {
      for (std::int64_t kx = h_low; kx < h_high; ++kx) {
        const float* tap = corner + (ky * s.width + kx) * s.block;
        const auto number = static_cast<std::int32_t>(ky * kernel_w + kx);
        // Selects by masks: the compiler makes vectors of them, and branches of conditional expressions.
        for (std::int64_t l = 0; l < w.count; ++l) {
          const float value = tap[l * w.step];
          const std::int32_t better =
              -static_cast<std::int32_t>(value > best[l]) | -static_cast<std::int32_t>(value != value);
          winner[l] = (number & better) | (winner[l] & ~better);
          best[l] = std::bit_cast<float>((std::bit_cast<std::int32_t>(value) & better) |
                                         (std::bit_cast<std::int32_t>(best[l]) & ~better));
        }
      }
    }
  });
}

/// The same for 8 neighbouring elements, where the compiler does not find the vectors in the loops above.
LOCKSTEP_INLINE void find_winners(const PoolShape& s, const Windows<Constant<1>, Constant<8>>& w,
                                  const float* corner, float* best, std::int32_t* winner) {
  constexpr std::int64_t fours = 2;
  Four high[fours];
  FourInts number_of[fours];
  with_taps(s, w, [&](auto v_low, auto v_high, auto h_low, auto h_high, auto kernel_w) {
    const float* first = corner + (v_low * s.width + h_low) * s.block;
    for (std::int64_t i = 0; i < fours; ++i) {
      high[i] = load_four(first + 4 * i);
      number_of[i] = FourInts{} + static_cast<std::int32_t>(v_low * kernel_w + h_low);
    }
    for (std::int64_t ky = v_low; ky < v_high; ++ky) {
      for (std::int64_t kx = h_low; kx < h_high; ++kx) {
        const float* tap = corner + (ky * s.width + kx) * s.block;
        const FourInts number = FourInts{} + static_cast<std::int32_t>(ky * kernel_w + kx);
        for (std::int64_t i = 0; i < fours; ++i) {
          const Four value = load_four(tap + 4 * i);
          const FourInts better = (value > high[i]) | (value != value);
          number_of[i] = better ? number : number_of[i];
          high[i] = better ? value : high[i];
        }
      }
    }
  });
  for (std::int64_t i = 0; i < fours; ++i) store_four(best + 4 * i, high[i]);
  std::memcpy(winner, number_of, sizeof number_of);
}

template <class Index>
LOCKSTEP_INLINE void forward_planes(const PoolShape& s, std::int64_t planes, const float* x, float* y,
                                    Index* winner) {
  for (std::int64_t plane = 0; plane < planes; ++plane) {
    const float* in = x + plane * s.plane();
    float* out = y + plane * s.out_plane();
    Index* taps = winner != nullptr ? winner + plane * s.out_plane() : nullptr;
    for_each_window(s, [&](auto w) {
      float best[lanes];
      std::int32_t number[lanes];
      find_winners(s, w, in + w.in, best, number);
      for (std::int64_t l = 0; l < w.count; ++l) out[w.out + l] = best[l];
      if (taps != nullptr) {
        for (std::int64_t l = 0; l < w.count; ++l) taps[w.out + l] = static_cast<Index>(number[l]);
      }
    });
  }
}

/// Windows in row-major order, so what overlapping windows add to one element has a fixed order.
template <class Index>
LOCKSTEP_INLINE void backward_planes(const PoolShape& s, std::int64_t planes, const float* diff,
                                     const Index* winner, float* dx) {
  for (std::int64_t plane = 0; plane < planes; ++plane) {
    float* in = dx + plane * s.plane();
    const float* out = diff + plane * s.out_plane();
    const Index* taps = winner + plane * s.out_plane();
    std::fill_n(in, s.plane(), 0.0f);
    for_each_window(s, [&](auto w) {
      float* corner = in + w.in;
      float share[lanes];
      std::int32_t index[lanes];
      for (std::int64_t l = 0; l < w.count; ++l) share[l] = out[w.out + l];
      for (std::int64_t l = 0; l < w.count; ++l) index[l] = static_cast<std::int32_t>(taps[w.out + l]);
      with_taps(s, w, [&](auto v_low, auto v_high, auto h_low, auto h_high, auto kernel_w) {
        for (std::int64_t ky = v_low; ky < v_high; ++ky) {
          for (std::int64_t kx = h_low; kx < h_high; ++kx) {
            float* tap = corner + (ky * s.width + kx) * s.block;
            const auto number = static_cast<std::int32_t>(ky * kernel_w + kx);
            for (std::int64_t l = 0; l < w.count; ++l) {
              tap[l * w.step] += index[l] == number ? share[l] : 0.0f;
            }
          }
        }
      });
    });
  }
}

// Windows of more than 255 elements are rare: one build of their loops is enough.
LOCKSTEP_CLONES void forward_small(const PoolShape& s, std::int64_t planes, const float* x, float* y,
                                   std::uint8_t* winner) {
  const PoolShape local = s;
  forward_planes(local, planes, x, y, winner);
}
void forward_large(const PoolShape& s, std::int64_t planes, const float* x, float* y, std::int32_t* winner) {
  const PoolShape local = s;
  forward_planes(local, planes, x, y, winner);
}
LOCKSTEP_CLONES void backward_small(const PoolShape& s, std::int64_t planes, const float* diff,
                                    const std::uint8_t* winner, float* dx) {
  const PoolShape local = s;
  backward_planes(local, planes, diff, winner, dx);
}
void backward_large(const PoolShape& s, std::int64_t planes, const float* diff, const std::int32_t* winner,
                    float* dx) {
  const PoolShape local = s;
  backward_planes(local, planes, diff, winner, dx);
}

/// Saves the winning tap of each output: one byte where a window has at most 255 taps, else four.
class MaxPool final : public OwnKernel {
 public:
  explicit MaxPool(const KernelSpec& spec)
      : OwnKernel("max_pool", spec, split_rows(spec)),
        shape_(pool_shape(spec, attrs_of<MaxPoolAttrs>(spec))),
        small_(shape_.kernel_h <= 255 && shape_.kernel_w <= 255 && shape_.kernel_h * shape_.kernel_w <= 255) {
    require(shape_.kernel_h <= max_index / shape_.kernel_w, "a pooling window has fewer than 2^31 elements");
    if (training()) {
      needs_.saved = static_cast<std::size_t>(spec.rows * spec.output.elements()) * (small_ ? 1 : 4);
    }
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range planes = planes_of(task);
    const float* x = floats(ctx.arena, at.inputs[0]) + planes.begin * shape_.plane();
    float* y = floats(ctx.arena, at.output) + planes.begin * shape_.out_plane();
    std::byte* saved = training() ? ctx.arena + at.saved : nullptr;
    const std::int64_t first = planes.begin * shape_.out_plane();
    if (small_) {
      auto* winner = reinterpret_cast<std::uint8_t*>(saved);
      forward_small(shape_, planes.size(), x, y, winner != nullptr ? winner + first : nullptr);
    } else {
      auto* winner = reinterpret_cast<std::int32_t*>(saved);
      forward_large(shape_, planes.size(), x, y, winner != nullptr ? winner + first : nullptr);
    }
  }

  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    float* dx = diff_input(at, ctx, 0);
    if (dx == nullptr) return;
    const Range planes = planes_of(task);
    const std::int64_t first = planes.begin * shape_.out_plane();
    const float* diff = floats(ctx.arena, at.diff_output) + first;
    dx += planes.begin * shape_.plane();
    if (small_) {
      backward_small(shape_, planes.size(), diff,
                     reinterpret_cast<std::uint8_t*>(ctx.arena + at.saved) + first, dx);
    } else {
      backward_large(shape_, planes.size(), diff,
                     reinterpret_cast<std::int32_t*>(ctx.arena + at.saved) + first, dx);
    }
  }

 private:
  static constexpr std::int64_t max_index = 2147483647;

  Range planes_of(int task) const {
    const Range rows = split().part(task);
    return {rows.begin * shape_.blocks, rows.end * shape_.blocks};
  }

  PoolShape shape_;
  bool small_;
};

}  // namespace

std::unique_ptr<Kernel> make_max_pool(const KernelSpec& spec) {
  return std::make_unique<MaxPool>(spec);
}

}  // namespace lockstep::cpu
