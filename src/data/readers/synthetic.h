#pragma once

#include <cstdint>

#include "core/shape.h"
#include "data/memory_dataset.h"

namespace lockstep {

/// A data set that is made, for benchmarks and tests: a function of these numbers alone (Philox,
/// Purpose::synthetic), computed with exactly rounded operations only, so the same on every machine.
struct SyntheticOptions {
  std::int64_t samples = 0;
  Shape shape;
  std::int64_t classes = 0;       ///< classification when above 0
  std::int64_t target_width = 0;  ///< regression when above 0
  std::uint64_t seed = 0;
};

/// Classification: sample i has label i mod classes; its input is half its class's fixed pattern plus noise,
/// both with mean 0 and deviation 1 per element: easy to learn, not trivial. Regression: the input is noise,
/// target k is its product with fixed weights over the root of the width, plus a tenth of noise. ConfigError:
/// no samples, both or neither of classes and target_width, or more than memory can hold.
MemoryContent make_synthetic(const SyntheticOptions& options);

}  // namespace lockstep
