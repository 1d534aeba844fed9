#pragma once

#include <concepts>
#include <cstdint>
#include <numeric>
#include <type_traits>

#include "model/cuda/kernels/numbers.h"

// Eight neighbouring channels at once. A GPU issues a few instructions for each byte that it could load, so a
// thread that carries two bytes at a time through an index computation is limited by these instructions. A
// thread of a kernel in packs loads 16 bytes at once (twice that in float32), finds its channels once, keeps
// what depends on them, and goes on to packs of the same channels.
//
// A kernel that can be carried out in packs is a function of one item as all are (work_elementwise.h), and
// has besides
//   std::int64_t pack_channels() const;   its parameters repeat after so many items; without any: 8
//   bool pack_addresses() const;          whether its addresses are multiples of 16 bytes
//   Kept begin(std::uint32_t channel_pack) const;              what it keeps for its channels
//   In read(std::uint32_t pack, const Kept&) const;
//   void write(std::uint32_t pack, const In&, const Kept&) const;
// with the same float operations in the same order for each item, so that no bit depends on which of the two
// ways is taken. read() comes before the write() of another pack, and may read only what its own writes.

/// Before a loop that waits for memory in every turn: so many of its loads are to be under way at once.
#ifdef __CUDA_ARCH__
#define LOCKSTEP_PRAGMA(text) _Pragma(#text)
#define LOCKSTEP_UNROLL(n) LOCKSTEP_PRAGMA(unroll n)
#else
#define LOCKSTEP_UNROLL(n)
#endif

namespace lockstep::cuda {

inline constexpr int pack_elements = 8;

/// Eight neighbours as they are stored.
template <class T>
struct alignas(16) Pack {
  static constexpr int words = pack_elements * static_cast<int>(sizeof(T)) / 4;
  std::uint32_t word[words];
};
/// Eight neighbours as they are computed with.
struct Eight {
  float v[pack_elements];
};

template <class T>
LOCKSTEP_HOST_DEVICE inline Pack<T> read_pack(const T* from, std::int64_t pack) {
#ifdef __CUDA_ARCH__
  return *reinterpret_cast<const Pack<T>*>(from + pack * pack_elements);
#else
  Pack<T> p;
  __builtin_memcpy(&p, from + pack * pack_elements, sizeof p);
  return p;
#endif
}
template <class T>
LOCKSTEP_HOST_DEVICE inline void write_pack(T* to, std::int64_t pack, const Pack<T>& p) {
#ifdef __CUDA_ARCH__
  *reinterpret_cast<Pack<T>*>(to + pack * pack_elements) = p;
#else
  __builtin_memcpy(to + pack * pack_elements, &p, sizeof p);
#endif
}

template <class T>
LOCKSTEP_HOST_DEVICE inline Eight load(const Pack<T>& p) {
  Eight e;
  for (int j = 0; j < pack_elements; j += 2) load_two(T{}, p.word[j / 2], e.v[j], e.v[j + 1]);
  return e;
}
LOCKSTEP_HOST_DEVICE inline Eight load(const Pack<float>& p) {
  Eight e;
  for (int j = 0; j < pack_elements; ++j) e.v[j] = __builtin_bit_cast(float, p.word[j]);
  return e;
}
template <class T>
LOCKSTEP_HOST_DEVICE inline Pack<T> packed(const Eight& e) {
  Pack<T> p;
  if constexpr (sizeof(T) == 4) {
    for (int j = 0; j < pack_elements; ++j) p.word[j] = __builtin_bit_cast(std::uint32_t, e.v[j]);
  } else {
    for (int j = 0; j < pack_elements; j += 2) p.word[j / 2] = store_two(T{}, e.v[j], e.v[j + 1]);
  }
  return p;
}
template <class T>
LOCKSTEP_HOST_DEVICE inline void store(T* to, std::int64_t pack, const Eight& e) {
  write_pack(to, pack, packed<T>(e));
}
/// Where nothing depends on the channels.
struct NothingKept {};

struct NothingRead {};

/// Eight parameters.
LOCKSTEP_HOST_DEVICE inline Eight load_eight(const float* from, std::uint32_t pack) {
  return load(read_pack(from, pack));
}

/// Division by a number that is known before the kernel runs, of numbers below 2^31, by one multiplication:
/// Granlund and Montgomery, "Division by Invariant Integers using Multiplication", 1994, theorem 4.2. A GPU
/// has no instruction for a division, which takes about twenty.
class Divider {
 public:
  /// `divisor`: from 1 to 2^31 - 1.
  explicit Divider(std::int64_t divisor = 1) : divisor_(static_cast<std::uint32_t>(divisor)) {
    while ((std::int64_t{1} << (shift_ - 31)) < divisor) ++shift_;
    const auto d = static_cast<std::uint64_t>(divisor);
    factor_ = static_cast<std::uint32_t>(((std::uint64_t{1} << shift_) + d - 1) / d);
  }
  LOCKSTEP_HOST_DEVICE std::uint32_t quotient(std::uint32_t n) const {
    return static_cast<std::uint32_t>((static_cast<std::uint64_t>(n) * factor_) >> shift_);
  }
  /// Divides n and gives what is left.
  LOCKSTEP_HOST_DEVICE std::uint32_t take_rest(std::uint32_t& n) const {
    const std::uint32_t whole = quotient(n), rest = n - whole * divisor_;
    n = whole;
    return rest;
  }

 private:
  std::uint32_t divisor_, factor_ = 0, shift_ = 31;
};

template <class... T>
bool begin_packs(const T*... address) {
  return ((reinterpret_cast<std::uintptr_t>(address) | ... | 0u) % 16) == 0;
}

template <class Work>
concept InPacks = requires(const Work& w) {
  { w.pack_channels() } -> std::same_as<std::int64_t>;
  { w.pack_addresses() } -> std::same_as<bool>;
};

inline constexpr int pack_threads = 256;  ///< of a block

/// How the items of a kernel are carried out: the first 8 `packs` in packs, by `blocks` blocks, the others
/// one by one.
struct PackGrid {
  std::uint32_t packs = 0;
  std::uint32_t channel_packs = 1;
  std::uint32_t blocks = 0;
};

/// So that every thread stays with its channels, the threads are a multiple of the channels' packs. No
/// packs, where that takes more blocks than there should be, and where channels, addresses or 32-bit indices
/// do not allow any.
template <class Work>
PackGrid pack_grid(std::int64_t n, const Work& work, int most_blocks) {
  if constexpr (InPacks<Work>) {
    const std::int64_t channels = work.pack_channels(), packs = n / pack_elements;
    if (channels <= 0 || channels % pack_elements != 0 || !work.pack_addresses()) return {};
    if (packs == 0 || packs >= std::int64_t{1} << 31) return {};
    const std::int64_t channel_packs = channels / pack_elements;
    const std::int64_t unit = channel_packs / std::gcd<std::int64_t>(channel_packs, pack_threads);
    if (unit > most_blocks) return {};
    const std::int64_t all = (packs + pack_threads - 1) / pack_threads;
    const std::int64_t blocks = all < most_blocks ? all : most_blocks;
    return {static_cast<std::uint32_t>(packs), static_cast<std::uint32_t>(channel_packs),
            static_cast<std::uint32_t>((blocks + unit - 1) / unit * unit)};
  } else {
    return {};
  }
}

/// What thread `i` of `threads` does. Two packs at once, so that more is on its way from memory, unless all
/// the work is in write().
template <class Work>
LOCKSTEP_HOST_DEVICE inline void run_packs(std::uint32_t i, std::uint32_t threads, std::uint32_t packs,
                                           std::uint32_t channel_packs, const Work& work) {
  if (i >= packs) return;
  const auto kept = work.begin(i % channel_packs);
  using In = decltype(work.read(i, kept));
  if constexpr (std::is_empty_v<In>) {
    for (; i < packs; i += threads) work.write(i, In{}, kept);
  } else {
    for (; i + threads < packs; i += 2 * threads) {
      const In first = work.read(i, kept);
      const In second = work.read(i + threads, kept);
      work.write(i, first, kept);
      work.write(i + threads, second, kept);
    }
    if (i < packs) work.write(i, work.read(i, kept), kept);
  }
}

}  // namespace lockstep::cuda
