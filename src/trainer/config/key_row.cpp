#include "trainer/config/key_row.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <optional>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "core/utf8.h"
#include "data/readers/csv_text.h"

namespace lockstep::keys {

std::string to_text(const std::string& v) {
  return v;
}
std::string to_text(bool v) {
  return v ? "true" : "false";
}
std::string to_text(double v) {
  char buffer[32];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, v).ptr;  // the shortest text that reads back to v
  return {buffer, end};
}
std::string to_text(int v) {
  return std::to_string(v);
}
std::string to_text(std::int64_t v) {
  return std::to_string(v);
}
std::string to_text(std::uint64_t v) {
  return std::to_string(v);
}

namespace {

std::string range_text(const ConfigKey& key) {
  const bool above = key.low > -1e300;
  const bool below = key.high < 1e300;
  const std::string low = fmt::format("{} {}", key.low_open ? "above" : "at least", to_text(key.low));
  // 2^64 - 1 is no double.
  const std::string most =
      key.high < 0x1p64 ? to_text(key.high) : to_text(std::numeric_limits<std::uint64_t>::max());
  const std::string high = fmt::format("{} {}", key.high_open ? "below" : "at most", most);
  return above && below ? low + " and " + high : (above ? low : high);
}

bool takes_zero(const ConfigKey& key) {
  return (key.low_open ? key.low < 0 : key.low <= 0) && (key.high_open ? key.high > 0 : key.high >= 0);
}

void check_range(const ConfigKey& key, double v, const std::string& text, const std::string& where) {
  const bool low = key.low_open ? v > key.low : v >= key.low;
  const bool high = key.high_open ? v < key.high : v <= key.high;
  if (!low || !high)
    throw ConfigError(fmt::format("{}: {} is out of range: give {}", where, text, range_text(key)));
}

template <class Integer>
void integer_from_text(const ConfigKey& key, const std::string& text, const std::string& where,
                       Integer& out) {
  Integer v = 0;
  const char* end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, v);
  if (read.ec == std::errc{} && read.ptr == end) {
    check_range(key, static_cast<double>(v), text, where);
    out = v;
    return;
  }
  if (read.ec == std::errc::result_out_of_range && read.ptr == end)
    throw ConfigError(fmt::format("{}: {} is out of range: give {}", where, text, range_text(key)));
  const DecimalText real = read_decimal(text);
  const bool whole = real.kind == DecimalText::Kind::number && real.value == std::floor(real.value);
  if (whole || real.kind == DecimalText::Kind::too_large) {
    check_range(key, real.value, text, where);  // "-1" for what is unsigned
    throw ConfigError(
        fmt::format("{}: write the whole number {:.0f} without point or exponent", where, real.value));
  }
  throw ConfigError(fmt::format("{}: \"{}\" is not a whole number", where, text));
}

}  // namespace

void from_text(const ConfigKey& key, const std::string& text, const std::string& where, std::string& out) {
  for (const char c : text) {
    if (c == '#' || static_cast<unsigned char>(c) < 0x20) {
      throw ConfigError(fmt::format("{}: a value cannot hold {}, which config files cannot express", where,
                                    c == '#' ? "'#'" : "control characters"));
    }
  }
  // Checkpoints hold the config as JSON: bytes that it cannot express would cost every one of them.
  if (!is_utf8(text)) {
    throw ConfigError(fmt::format(
        "{}: the value is not UTF-8 text: save the config file as UTF-8, and rename a file whose name is not",
        where));
  }
  if (key.kind == ConfigKey::Kind::choice && !(text.empty() && key.default_text.empty()) &&
      std::find(key.choices.begin(), key.choices.end(), text) == key.choices.end()) {
    const auto near = nearest_word(text, key.choices);
    throw ConfigError(fmt::format("{}: \"{}\" is not one of {}{}", where, text, fmt::join(key.choices, ", "),
                                  near ? ": did you mean \"" + *near + "\"?" : ""));
  }
  out = std::string(trim(text));
}

void from_text(const ConfigKey&, const std::string& text, const std::string& where, bool& out) {
  const auto v = parse_bool(text);
  if (!v) throw ConfigError(fmt::format("{}: \"{}\" is neither true nor false", where, text));
  out = *v;
}

void from_text(const ConfigKey& key, const std::string& text, const std::string& where, double& out) {
  const DecimalText v = read_decimal(text);
  if (v.kind == DecimalText::Kind::no_number)
    throw ConfigError(fmt::format("{}: \"{}\" is not a finite decimal number such as 0.01", where, text));
  // Taken as 0 it could switch off what it was meant to set.
  if (v.kind == DecimalText::Kind::too_small)
    throw ConfigError(fmt::format("{}: {} is too small for a number of 64 bits, whose least is 4.9e-324: {}",
                                  where, text,
                                  takes_zero(key) ? "write 0 if that is meant" : "give " + range_text(key)));
  check_range(key, v.value, text, where);
  out = v.value;
}

void from_text(const ConfigKey& key, const std::string& text, const std::string& where, int& out) {
  integer_from_text(key, text, where, out);
}
void from_text(const ConfigKey& key, const std::string& text, const std::string& where, std::int64_t& out) {
  integer_from_text(key, text, where, out);
}
void from_text(const ConfigKey& key, const std::string& text, const std::string& where, std::uint64_t& out) {
  integer_from_text(key, text, where, out);
}

Row&& Row::delimiter() && {
  set = [inner = std::move(set)](const ConfigKey& k, const std::string& text, const std::string& where,
                                 Config& config) {
    if (!parse_delimiter(trim(text)))
      throw ConfigError(
          fmt::format("{}: \"{}\" is not one of , ; | : tab, space: write a blank or a tab as "
                      "its name",
                      where, printable(text)));
    inner(k, text, where, config);
  };
  return std::move(*this);
}

Row&& Row::such_as(bool (*good)(std::string_view), const char* what) && {
  set = [inner = std::move(set), good, what](const ConfigKey& k, const std::string& text,
                                             const std::string& where, Config& config) {
    if (!trim(text).empty() && !good(trim(text))) {
      throw ConfigError(fmt::format("{}: \"{}\" is not {}", where, text, what));
    }
    inner(k, text, where, config);
  };
  return std::move(*this);
}

Row&& Row::refused_for(std::string (*why)(std::string_view)) && {
  set = [inner = std::move(set), why](const ConfigKey& k, const std::string& text, const std::string& where,
                                      Config& config) {
    if (const std::string reason = why(text); !reason.empty())
      throw ConfigError(fmt::format("{}: {}", where, reason));
    inner(k, text, where, config);
  };
  return std::move(*this);
}

}  // namespace lockstep::keys
