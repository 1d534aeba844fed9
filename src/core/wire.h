#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep {

// What ranks of one job tell each other as text (Communicator::all_gather_text, broadcast_text): values one
// after another, each behind a byte that names its kind. Texts and lists stand behind their length. Integers
// and doubles are 8 bytes in the machine's own order, since all ranks run one binary. It is no format for
// files.

namespace wire_kind {
inline constexpr char signed_integer = 'i', unsigned_integer = 'u', real = 'd', text = 's', list = 'l';
}  // namespace wire_kind

/// Writes values. text() is what has been written so far.
class WireWriter {
 public:
  template <std::integral T>
  WireWriter& add(T value) {
    if constexpr (std::signed_integral<T>)
      return put(wire_kind::signed_integer, static_cast<std::uint64_t>(std::int64_t{value}));
    else
      return put(wire_kind::unsigned_integer, value);
  }
  template <std::same_as<double> T>
  WireWriter& add(T value) {
    return put(wire_kind::real, std::bit_cast<std::uint64_t>(value));
  }
  WireWriter& add(std::string_view value) {
    put(wire_kind::text, value.size());
    bytes_ += value;
    return *this;
  }
  /// Any bytes may stand in it.
  WireWriter& add(const std::string& value) { return add(std::string_view(value)); }
  WireWriter& add(const char* value) { return add(std::string_view(value)); }
  template <class T>
  WireWriter& add(const std::vector<T>& values) {
    begin_list(values.size());
    for (const T& value : values) add(value);
    return *this;
  }
  /// Begins a list whose elements, of one or several values each, the caller adds.
  WireWriter& begin_list(std::size_t elements) { return put(wire_kind::list, elements); }

  const std::string& text() const { return bytes_; }

 private:
  WireWriter& put(char kind, std::uint64_t bits) {
    bytes_ += kind;
    bytes_.append(reinterpret_cast<const char*>(&bits), sizeof bits);
    return *this;
  }
  std::string bytes_;
};

/// Reads what a WireWriter has written, in the same order. Throws InternalError, with the place, where the
/// text ends early, holds a value of another kind, or one that does not fit the type asked for. The text must
/// outlive the reader.
class WireReader {
 public:
  explicit WireReader(std::string_view text) : text_(text) {}

  template <std::integral T>
  T get() {
    if constexpr (std::signed_integral<T>) {
      const auto value = static_cast<std::int64_t>(take(wire_kind::signed_integer));
      if (!std::in_range<T>(value)) refuse("a number is too large");
      return static_cast<T>(value);
    } else {
      const std::uint64_t value = take(wire_kind::unsigned_integer);
      if constexpr (std::same_as<T, bool>) {
        if (value > 1) refuse("a number is too large");
        return value == 1;
      } else {
        if (!std::in_range<T>(value)) refuse("a number is too large");
        return static_cast<T>(value);
      }
    }
  }
  template <std::same_as<double> T>
  T get() {
    return std::bit_cast<double>(take(wire_kind::real));
  }
  template <std::same_as<std::string> T>
  T get() {
    return take_text();
  }
  template <class List>
  requires std::same_as<List, std::vector<typename List::value_type>> List get() {
    List values;
    const std::size_t elements = get_list();
    values.reserve(elements);
    for (std::size_t i = 0; i < elements; ++i) values.push_back(get<typename List::value_type>());
    return values;
  }
  /// The number of elements of a list, which the caller then reads. Never more than there is room for.
  std::size_t get_list();

  bool at_end() const { return at_ == text_.size(); }
  /// After the last value: throws where something is left.
  void finish() const;

 private:
  std::uint64_t take(char kind);
  std::string take_text();
  [[noreturn]] void refuse(std::string_view what) const;

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace lockstep
