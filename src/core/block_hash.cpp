#include "core/block_hash.h"

#include <cstring>

#include "core/simd.h"

namespace lockstep {
namespace {

constexpr std::size_t lanes = 32;  // words side by side: enough to hide the latency of the multiplication
constexpr std::uint64_t odd =
    0x9e3779b97f4a7c15u;  // 2^64 / golden ratio, odd: multiplying by it is one to one

/// One to one in `state` and in `word`, so that what differs stays different. (The finalizer of Stafford's
/// variant 13 of MurmurHash3, cut short, with the word mixed in.)
[[gnu::always_inline]] inline std::uint64_t mix(std::uint64_t state, std::uint64_t word) {
  state = (state ^ word) * odd;
  return state ^ (state >> 29);
}

LOCKSTEP_TARGET_CLONES
std::uint64_t hash_words(const unsigned char* bytes, std::size_t size) {
  std::uint64_t state[lanes];
  for (std::size_t j = 0; j < lanes; ++j) state[j] = odd * (j + 1);
  constexpr std::size_t stride = lanes * sizeof(std::uint64_t);
  std::size_t at = 0;
  for (; at + stride <= size; at += stride) {
    std::uint64_t words[lanes];
    std::memcpy(words, bytes + at, stride);
    for (std::size_t j = 0; j < lanes; ++j) state[j] = mix(state[j], words[j]);
  }
  std::uint64_t hash = odd ^ size;
  for (std::size_t j = 0; j < lanes; ++j) hash = mix(hash, state[j]);
  for (; at < size; at += sizeof(std::uint32_t)) {
    std::uint32_t word;
    std::memcpy(&word, bytes + at, sizeof word);
    hash = mix(hash, word);
  }
  return mix(hash, hash >> 32);
}

}  // namespace

std::uint64_t hash_floats(std::span<const float> values) {
  return hash_words(reinterpret_cast<const unsigned char*>(values.data()), values.size_bytes());
}

std::uint64_t hash_hashes(std::span<const std::uint64_t> hashes) {
  return hash_words(reinterpret_cast<const unsigned char*>(hashes.data()), hashes.size_bytes());
}

}  // namespace lockstep
