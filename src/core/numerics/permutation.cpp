#include "core/numerics/permutation.h"

#include <bit>

namespace lockstep {

Permutation::Permutation(PhiloxKey key, std::uint64_t n) : key_(key), n_(n) {
  const unsigned bits = n > 1 ? static_cast<unsigned>(std::bit_width(n - 1)) : 1;
  half_bits_ = (bits + 1) / 2;
}

std::uint64_t Permutation::encrypt(std::uint64_t x) const noexcept {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t left = x >> half_bits_;
  std::uint64_t right = x & mask;
  for (std::uint32_t round = 0; round < 6; ++round) {
    const PhiloxBlock b = philox4x32(key_, static_cast<std::uint32_t>(right),
                                     static_cast<std::uint32_t>(right >> 32), round, 0x10C57E9u);
    const std::uint64_t f = (std::uint64_t{b.v[1]} << 32 | b.v[0]) & mask;
    const std::uint64_t next = left ^ f;
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

std::uint64_t Permutation::operator()(std::uint64_t position) const noexcept {
  std::uint64_t x = position;
  do {
    x = encrypt(x);
  } while (x >= n_);
  return x;
}

}  // namespace lockstep
