#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/shape.h"
#include "data/readers/idx.h"

namespace lockstep {

/// Whether the samples of a file, which have three axes, hold their channels in the last one. Where nothing
/// says it, they are taken as channels x height x width if only that reading makes sense; what looks like
/// height x width x channels, or may be either, is an InputError that names data.layout. A data.layout for
/// samples without channels, or a data.shape that would scramble the pixels, is a ConfigError.
bool holds_channels_last(const IdxArray& images, const ImageOptions& options);

/// Brings samples of height x width x channels into the order channels x height x width.
void to_channels_first(std::vector<std::uint8_t>& values, const Shape& stored);
void to_channels_first(std::vector<float>& values, const Shape& stored);

}  // namespace lockstep
