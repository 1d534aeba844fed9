#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/shape.h"

// Shared by the reader and the writer of safetensors files; not for other callers.

namespace lockstep {

/// Of the format.
inline constexpr std::uint64_t max_safetensors_header = 100'000'000;

/// A name from a file, in quotes and fit for a message.
std::string quoted_name(std::string_view text);

/// Bytes that a shape takes, or nothing when the number does not fit. Prefix products are checked too, so
/// that a zero at the end does not hide an overflow before it.
std::optional<std::uint64_t> tensor_bytes(std::span<const std::uint64_t> dims, DType dtype);

}  // namespace lockstep
