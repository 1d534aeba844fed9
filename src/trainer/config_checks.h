#pragma once

#include "trainer/config.h"

namespace lockstep {

/// Throws ConfigError where keys that are good one by one do not go together, or where one would have no
/// effect. `values` tells where each was given.
void check_combinations(const Config& config, const ConfigValues& values);

}  // namespace lockstep
