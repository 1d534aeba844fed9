#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "core/range.h"

namespace lockstep {

struct ComputeDevice;

/// How tests make things fail inside a training run. Nothing in `lockstep` sets them: they are reached only
/// by a program that makes its own Job. `step`: batches before this one.
struct FaultHooks {
  /// As TrainStepOptions::before_ready.
  std::function<void(std::int64_t step, Range range, std::span<const std::span<float>> roots)> before_ready;
  /// Every slice's own gradient before it is added to others, and (`again`) where a check computes it once
  /// more.
  std::function<void(std::int64_t step, std::int64_t slice, Range range, std::span<float> gradient,
                     bool again)>
      after_slice;
  /// The device that is computed on may be changed, or another be put in its place.
  std::function<void(ComputeDevice& device)> device;
  /// Between two steps: the parameters of this rank in memory.
  std::function<void(std::int64_t steps, std::span<float> parameters)> between_steps;
};

}  // namespace lockstep
