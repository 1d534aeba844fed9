#pragma once

#include <cstdint>

#include "core/numerics/philox.h"

namespace lockstep {

/// A keyed bijection of [0, n): position in an epoch -> sample index. It is evaluated at single points,
/// so an epoch's order needs no memory and cannot be forgotten. A Feistel network of six rounds with
/// Philox as round function over the next even power of two, walked until it lands below n (Black and
/// Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, section 3: cycle walking).
class Permutation {
 public:
  /// n >= 0; a permutation of nothing may not be evaluated.
  Permutation(PhiloxKey key, std::uint64_t n);
  std::uint64_t size() const noexcept { return n_; }
  /// The image of `position`, which must be below size().
  std::uint64_t operator()(std::uint64_t position) const noexcept;

 private:
  std::uint64_t encrypt(std::uint64_t x) const noexcept;
  PhiloxKey key_;
  std::uint64_t n_;
  unsigned half_bits_;
};

}  // namespace lockstep
