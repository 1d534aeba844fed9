#pragma once

#include <cmath>
#include <cstdint>
#include <fmt/format.h>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/printable.h"
#include "core/text.h"

namespace lockstep {

/// A value of a JSON document that is not what its reader takes: "'step' is 1.5, but must be an integer from
/// 0 to 9223372036854775807". Whoever reads the document adds its name.
class JsonNumberError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What a json::exception says, for a message: without the library's mark "[json.exception.…]" in front.
inline std::string json_fault(const nlohmann::json::exception& e) {
  std::string text = e.what();
  const std::size_t mark = text.find("] ");
  if (text.starts_with('[') && mark != text.npos) text.erase(0, mark + 2);
  constexpr int number_overflow = 406;
  if (e.id == number_overflow) text = "a number in it is beyond the range of float64: " + text;
  return printable(text);
}

// JSON's numbers have no size and no kind, and the library's get<>() converts what does not fit unseen, which
// is undefined beyond 64 bits and drops a fraction. Every reader of a number takes it through the functions
// below. `name` is the key, for messages.

/// Throws JsonNumberError unless `value` is an integer in [least, most]; 1.0 is none.
inline std::int64_t json_integer_of(const nlohmann::json& value, const std::string& name, std::int64_t least,
                                    std::int64_t most = std::numeric_limits<std::int64_t>::max()) {
  bool fits = value.is_number_integer();
  std::int64_t n = 0;
  if (value.is_number_unsigned()) {
    const auto wide = value.get<std::uint64_t>();
    fits = wide <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    n = fits ? static_cast<std::int64_t>(wide) : 0;
  } else if (fits) {
    n = value.get<std::int64_t>();
  }
  if (fits && n >= least && n <= most) return n;
  constexpr std::size_t longest = 40;
  // A list may be nested without end, and dump() recurses.
  std::string text = value.is_structured()
                         ? std::string("a list or an object")
                         : printable(value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
  if (text.size() > longest) text = text.substr(0, longest) + "...";
  throw JsonNumberError(
      fmt::format("'{}' is {}, but must be an integer from {} to {}", name, text, least, most));
}

/// The member `key` of an object. A json::exception where there is none.
inline std::int64_t json_integer(const nlohmann::json& object, const char* key, std::int64_t least,
                                 std::int64_t most = std::numeric_limits<std::int64_t>::max()) {
  return json_integer_of(object.at(key), key, least, most);
}

/// A list of such integers.
inline std::vector<std::int64_t> json_integers(const nlohmann::json& object, const char* key,
                                               std::int64_t least,
                                               std::int64_t most = std::numeric_limits<std::int64_t>::max()) {
  const nlohmann::json& list = object.at(key);
  if (!list.is_array()) throw JsonNumberError(fmt::format("'{}' is not a list", key));
  std::vector<std::int64_t> numbers;
  for (const nlohmann::json& value : list) numbers.push_back(json_integer_of(value, key, least, most));
  return numbers;
}

/// Throws JsonNumberError unless `value` is a number within the range of float64.
inline double json_real_of(const nlohmann::json& value, const std::string& name) {
  const double v = value.is_number() ? value.get<double>() : std::numeric_limits<double>::infinity();
  if (std::isfinite(v)) return v;
  throw JsonNumberError(fmt::format("'{}' is not a number", name));
}

inline double json_real(const nlohmann::json& object, const char* key) {
  return json_real_of(object.at(key), key);
}

/// A list of such numbers.
inline std::vector<double> json_reals(const nlohmann::json& object, const char* key) {
  const nlohmann::json& list = object.at(key);
  if (!list.is_array()) throw JsonNumberError(fmt::format("'{}' is not a list", key));
  std::vector<double> numbers;
  for (const nlohmann::json& value : list) numbers.push_back(json_real_of(value, key));
  return numbers;
}

}  // namespace lockstep
