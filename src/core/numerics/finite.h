#pragma once

#include <cstdint>
#include <span>

namespace lockstep {

/// Whether no value is NaN or infinite. As fast as memory is read; allocates nothing.
bool all_finite(std::span<const float> values);

}  // namespace lockstep
