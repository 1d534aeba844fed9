#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "model/cuda/host_machine.h"

// A kernel carried out eight channels at once, against the same kernel item after item.

namespace lockstep::test {

using cuda::Bf16;
using cuda::Fp16;

template <class T>
struct Name;
template <>
struct Name<float> {
  static constexpr const char* text = "float32";
};
template <>
struct Name<Bf16> {
  static constexpr const char* text = "bfloat16";
};
template <>
struct Name<Fp16> {
  static constexpr const char* text = "float16";
};

/// Memory that begins at a multiple of 16 bytes, with something behind it that must not be touched.
template <class T>
class Values {
 public:
  static constexpr std::size_t behind = 32;
  explicit Values(std::int64_t n) : all_(static_cast<std::size_t>(n) + behind) {
    std::memset(static_cast<void*>(all_.data()), 0x5a, all_.size() * sizeof(T));
  }
  T* data() { return all_.data(); }
  const std::vector<T>& all() const { return all_; }

 private:
  std::vector<T> all_;
};

/// Ordinary numbers, and now and then what rounding and comparisons treat in another way.
template <class T>
Values<T> drawn(std::int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.3f, 2.0f);
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> odd = {0.0f,    -0.0f, infinity, -infinity, std::nanf(""), 1e-39f,
                                  -1e-40f, 6e-8f, 3e-8f,    3.3e38f,   65519.0f,      1e30f};
  Values<T> out(n);
  for (std::int64_t i = 0; i < n; ++i)
    cuda::store(out.data()[i], random() % 16 == 0 ? odd[random() % odd.size()] : normal(random));
  return out;
}

inline bool same(float a, float b) {
  if (std::isnan(a) && std::isnan(b)) return true;  // of which NaN, float32 promises nothing
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}
inline bool same(Bf16 a, Bf16 b) {
  return a.bits == b.bits;
}
inline bool same(Fp16 a, Fp16 b) {
  return a.bits == b.bits;
}
template <std::integral Place>
bool same(Place a, Place b) {
  return a == b;
}

template <class T>
bool same(const Values<T>& a, const Values<T>& b) {
  return std::equal(a.all().begin(), a.all().end(), b.all().begin(), b.all().end(),
                    [](const T& p, const T& q) { return same(p, q); });
}

/// Carries out `work_on(out)` over n items in both ways. Returns whether it was done in packs.
template <class Out, class WorkOn>
bool expect_same_bits(std::int64_t n, std::int64_t outputs, int blocks, WorkOn work_on,
                      const Values<Out>* in_place = nullptr) {
  Values<Out> items(outputs), packs(outputs);
  if (in_place != nullptr) items = packs = *in_place;
  const auto one_by_one = work_on(items.data());
  for (std::int64_t i = 0; i < n; ++i) one_by_one(i);
  HostMachine machine;
  machine.most_pack_blocks = blocks;
  machine.each(n, work_on(packs.data()));
  for (std::size_t i = 0; i < items.all().size(); ++i)
    if (!same(items.all()[i], packs.all()[i])) {
      ADD_FAILURE() << "item " << i << " of " << n << " differs";
      break;
    }
  return machine.in_packs > 0;
}

struct Names {
  template <class T>
  static std::string GetName(int) {
    return Name<T>::text;
  }
};
using Formats = testing::Types<float, Bf16, Fp16>;

// One turn of a thread, several, and numbers of packs that leave threads without a second one.
inline constexpr std::int64_t row_counts[] = {1, 5, 255, 256, 257, 700, 1301};

/// Channels, how many blocks there may be, and whether that can be done in packs.
struct PackCase {
  std::int64_t channels;
  int blocks;
  bool packs;
};
inline constexpr PackCase pack_cases[] = {{8, 1, true},   {8, 8, true},  {16, 1, true},  {24, 3, true},
                                          {24, 2, false}, {40, 8, true}, {64, 2, true},  {2056, 8, false},
                                          {3, 8, false},  {1, 8, false}, {12, 8, false}, {512, 1, true}};

}  // namespace lockstep::test
