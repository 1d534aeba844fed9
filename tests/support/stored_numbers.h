#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace lockstep::test {

/// What may stand in a file instead of a number, and never is what a count can be; 3 may be one.
inline const std::vector<std::string>& changed_numbers() {
  static const std::vector<std::string> all{"1e110",
                                            "-1e110",
                                            "1.5",
                                            "-1",
                                            "9223372036854775808",
                                            "18446744073709551615",
                                            "-9223372036854775808",
                                            "\"x\"",
                                            "null",
                                            "true",
                                            "[]",
                                            "{}",
                                            "3"};
  return all;
}

/// Whether each_number_changed() put an integer there that a count may be.
inline bool is_small_integer(const std::string& where) {
  return where.ends_with(" = 3");
}

/// Calls `look` with every copy of `document` in which one number is replaced by one of changed_numbers().
/// `where`: "/best/metric = 1.5".
inline void each_number_changed(const nlohmann::json& document,
                                const std::function<void(const std::string&, const nlohmann::json&)>& look) {
  const nlohmann::json flat = document.flatten();
  for (const auto& [pointer, value] : flat.items()) {
    if (!value.is_number()) continue;
    for (const std::string& text : changed_numbers()) {
      nlohmann::json changed = document;
      changed[nlohmann::json::json_pointer(pointer)] = nlohmann::json::parse(text);
      look(pointer + " = " + text, changed);
    }
  }
}

}  // namespace lockstep::test
