#include "data/readers/byte_order.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fmt/format.h>

#include "core/error.h"

namespace lockstep {

namespace {

template <class T>
T reversed(T value) {
  std::uint8_t bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  std::reverse(bytes, bytes + sizeof(T));
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

template <class T>
T at(const IdxArray& array, std::size_t i) {
  T value;
  std::memcpy(&value, array.data.data() + i * sizeof(T), sizeof(T));
  return value;
}

template <class T>
std::string reversed_integers(const IdxArray& array) {
  // As large as values get by reversal, and no larger than labels and samples are by themselves.
  constexpr double far = 16;
  double plain = 0;
  double other = 0;
  T example = 0;
  for (std::size_t i = 0; i < array.data.size() / sizeof(T); ++i) {
    const T value = at<T>(array, i);
    if (std::abs(static_cast<double>(value)) > plain) {
      plain = std::abs(static_cast<double>(value));
      example = value;
    }
    other = std::max(other, std::abs(static_cast<double>(reversed(value))));
  }
  if (plain < 256 || other * far > plain) return "";
  return fmt::format("value {} is {} with its bytes reversed", example, reversed(example));
}

template <class T>
std::string reversed_floats(const IdxArray& array) {
  // Nobody measures beyond these, and bytes at random seldom lie between.
  const auto usual = [](T v) { return v == 0 || (std::abs(v) > T(1e-18) && std::abs(v) < T(1e18)); };
  std::size_t odd = 0;
  std::size_t odd_reversed = 0;
  std::size_t nonzero = 0;
  T example = 0;
  for (std::size_t i = 0; i < array.data.size() / sizeof(T); ++i) {
    const T value = at<T>(array, i);
    odd_reversed += usual(reversed(value)) ? 0 : 1;
    nonzero += value == 0 ? 0 : 1;
    if (usual(value)) continue;
    if (odd++ == 0 || !usual(reversed(example))) example = value;
  }
  // A float32 at random is odd about every second time, so of few values less than half may be. Where they
  // stand in the right order their last bytes are at random, and so they are odd when reversed.
  if (odd == 0 || odd_reversed * 50 > odd) return "";
  if (odd * 2 < nonzero && (odd < 3 || odd * 5 < nonzero)) return "";
  return fmt::format("value {:g} is {:g} with its bytes reversed", example, reversed(example));
}

}  // namespace

std::string reversed_extents(const std::vector<std::int64_t>& dims, std::uint64_t element, std::uint64_t most,
                             bool exactly) {
  std::uint64_t bytes = element;
  std::string shape;
  bool smaller = false;
  for (const std::int64_t d : dims) {
    const std::uint32_t extent = reversed(static_cast<std::uint32_t>(d));
    if (extent == 0 || __builtin_mul_overflow(bytes, std::uint64_t{extent}, &bytes)) return "";
    shape += fmt::format("{}{}", shape.empty() ? "" : "x", extent);
    smaller = smaller || extent < d;
  }
  if (!smaller || bytes > most) return "";
  if (exactly && bytes == most)
    return fmt::format(
        ". With the bytes of each extent reversed it is {} and fits: the file is "
        "little-endian, and IDX is big-endian; write it again",
        shape);
  return fmt::format(
      ". Is it little-endian? With the bytes of each extent reversed it is {}; IDX is big-endian", shape);
}

std::string reversed_values(const IdxArray& array) {
  switch (array.type) {
    case IdxType::i16:
      return reversed_integers<std::int16_t>(array);
    case IdxType::i32:
      return reversed_integers<std::int32_t>(array);
    case IdxType::f32:
      return reversed_floats<float>(array);
    case IdxType::f64:
      return reversed_floats<double>(array);
    default:
      return "";
  }
}

void look_at_byte_order(const IdxArray& array, bool certain, std::vector<std::string>& doubts) {
  const std::string evidence = reversed_values(array);
  if (evidence.empty()) return;
  const std::string text = fmt::format(
      "{} reads as if its values were little-endian ({}), and IDX is big-endian", array.origin, evidence);
  if (certain || array.type == IdxType::f32 || array.type == IdxType::f64)
    throw InputError(text + ": write it again with the bytes of each value in that order");
  doubts.push_back(text);
}

}  // namespace lockstep
