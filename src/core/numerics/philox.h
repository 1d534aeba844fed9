#pragma once

#include <array>
#include <cstdint>

// Philox 4x32-10, a counter-based generator: Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers:
// As Easy as 1, 2, 3", SC 2011, section 4.3; the constants are those of its table 2. Every number is a
// function of a key and a counter, so nobody holds a state that could depend on the rank count.

#if defined(__CUDACC__)
#define LOCKSTEP_HOST_DEVICE __host__ __device__
#else
#define LOCKSTEP_HOST_DEVICE
#endif

namespace lockstep {

struct PhiloxKey {
  std::uint32_t k0 = 0;
  std::uint32_t k1 = 0;
  friend constexpr bool operator==(const PhiloxKey&, const PhiloxKey&) = default;
};

struct PhiloxBlock {
  std::uint32_t v[4];
};

/// The four 32-bit words at counter (c0, c1, c2, c3) under `key`.
LOCKSTEP_HOST_DEVICE constexpr PhiloxBlock philox4x32(PhiloxKey key, std::uint32_t c0, std::uint32_t c1,
                                                      std::uint32_t c2, std::uint32_t c3) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ key.k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ key.k1;
    c0 = n0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = n2;
    c3 = static_cast<std::uint32_t>(p0);
    key.k0 += 0x9E3779B9u;
    key.k1 += 0xBB67AE85u;
  }
  return PhiloxBlock{{c0, c1, c2, c3}};
}

/// What a random number is for. Part of the key, so that purposes never share numbers. The values are
/// part of what a checkpoint means: append only.
enum class Purpose : std::uint32_t {
  init = 1,
  shuffle = 2,
  split = 3,
  dropout = 4,
  augment = 5,
  synthetic = 6
};

/// The key for one (seed, purpose, epoch or step, op): itself a Philox output, so that keys are spread.
LOCKSTEP_HOST_DEVICE constexpr PhiloxKey random_key(std::uint64_t seed, Purpose purpose,
                                                    std::uint64_t epoch_or_step, std::uint32_t op) {
  const PhiloxKey k{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  const PhiloxBlock b =
      philox4x32(k, static_cast<std::uint32_t>(epoch_or_step),
                 static_cast<std::uint32_t>(epoch_or_step >> 32), static_cast<std::uint32_t>(purpose), op);
  return PhiloxKey{b.v[0], b.v[1]};
}

/// The four words number `block` of sample `sample` under `key`.
LOCKSTEP_HOST_DEVICE constexpr PhiloxBlock random_block(PhiloxKey key, std::uint64_t sample,
                                                        std::uint64_t block) {
  return philox4x32(key, static_cast<std::uint32_t>(sample), static_cast<std::uint32_t>(sample >> 32),
                    static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32));
}

/// Uniform in [0, 1): the upper 24 bits, exact in float32.
LOCKSTEP_HOST_DEVICE constexpr float uniform01(std::uint32_t word) {
  return static_cast<float>(word >> 8) * (1.0f / 16777216.0f);
}

/// Uniform in (0, 1), the centres of 2^32 cells, in float64; never 0, so a logarithm is safe.
LOCKSTEP_HOST_DEVICE constexpr double uniform_open(std::uint32_t word) {
  return (static_cast<double>(word) + 0.5) * (1.0 / 4294967296.0);
}

}  // namespace lockstep
