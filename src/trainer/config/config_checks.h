#pragma once

#include "trainer/config/config.h"

namespace lockstep {

/// Throws ConfigError where keys that are good one by one do not go together, or where one would have no
/// effect. `values` tells where each was given.
void check_combinations(const Config& config, const ConfigValues& values);

/// Sets train.eval_batch where it is left to train.global_batch. Throws ConfigError where train.slices, which
/// is resolved by then, does not divide it.
void resolve_eval_batch(Config& config);

}  // namespace lockstep
