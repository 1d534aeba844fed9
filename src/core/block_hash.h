#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace lockstep {

/// A 64-bit hash of the bits of `values`, the same on every instruction set. Not cryptographic: it is there
/// to notice accidents. Every change of a single element changes it for certain; any other change does with
/// probability 1 - 2^-64. The length counts too. About as fast as memory is read.
std::uint64_t hash_floats(std::span<const float> values);

/// The hash of a sequence of hashes; order counts.
std::uint64_t hash_hashes(std::span<const std::uint64_t> hashes);

}  // namespace lockstep
