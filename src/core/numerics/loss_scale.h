#pragma once

#include <cstdint>

#include "core/numerics/philox.h"

// Dynamic loss scaling for float16: Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2.
// The gradient of scale * loss is computed, so that small gradients do not vanish in float16, and divided by
// the scale before it is used.

namespace lockstep {

struct LossScaleOptions {
  float initial = 65536.0f;
  float growth = 2.0f;           ///< applied after `interval` good steps in a row
  float backoff = 0.5f;          ///< applied after a step that overflowed, whose update is skipped
  std::int32_t interval = 2000;  ///< torch.amp.GradScaler's default
  float smallest = 1.0f;
  float largest = 16777216.0f;  ///< 2^24: above, the sum of a batch could leave float32's range sooner
};

/// Powers of two throughout, so that scaling rounds nothing but what leaves the range.
struct LossScale {
  float scale = 65536.0f;
  std::int32_t good_steps = 0;  ///< since the scale last changed
  std::int32_t skipped = 0;     ///< updates left out since the start

  friend constexpr bool operator==(const LossScale&, const LossScale&) = default;
};

/// Whether a gradient that is not finite can be the scale's fault: not at the smallest, where a smaller one
/// cannot be tried.
LOCKSTEP_HOST_DEVICE constexpr bool scale_may_be_at_fault(const LossScale& state,
                                                          const LossScaleOptions& options) {
  return state.scale > options.smallest;
}

/// The state after a step. `overflow` must be decided on totals (a flag reduced over all ranks, or a norm of
/// the summed gradient), so that all ranks skip alike.
LOCKSTEP_HOST_DEVICE constexpr LossScale next_loss_scale(LossScale state, bool overflow,
                                                         const LossScaleOptions& options) {
  if (overflow) {
    const float lower = state.scale * options.backoff;
    return {lower < options.smallest ? options.smallest : lower, 0, state.skipped + 1};
  }
  if (state.good_steps + 1 < options.interval) return {state.scale, state.good_steps + 1, state.skipped};
  const float higher = state.scale * options.growth;
  return {higher > options.largest ? options.largest : higher, 0, state.skipped};
}

}  // namespace lockstep
