#include "core/text.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <ctime>
#include <fmt/format.h>
#include <limits>

#include "core/printable.h"

namespace lockstep {
namespace {

constexpr std::string_view blanks = " \t\r\n\f\v";

constexpr char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string_view last_part(std::string_view word) {
  const std::size_t dot = word.rfind('.');
  return dot == std::string_view::npos ? word : word.substr(dot + 1);
}

/// The only word of `known` that `matches`, if there is exactly one.
template <class Matches>
std::optional<std::string> the_only(std::span<const std::string> known, Matches matches) {
  std::optional<std::string> found;
  for (const std::string& candidate : known) {
    if (!matches(to_lower(candidate))) continue;
    if (found) return std::nullopt;
    found = candidate;
  }
  return found;
}

/// from_chars takes '-' but no '+'. Removes a '+' that stands before a digit or a point.
std::string_view without_plus(std::string_view text) {
  const bool plus = text.size() > 1 && text[0] == '+' && text[1] != '-' && text[1] != '+';
  return plus ? text.substr(1) : text;
}

template <class T>
std::optional<T> parse_whole(std::string_view text) {
  text = without_plus(text);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Whether a decimal number that float64 cannot hold is at least 1, from its digits alone. `text` is one:
/// from_chars has found its end.
bool at_least_one(std::string_view text) {
  if (!text.empty() && text.front() == '-') text.remove_prefix(1);
  const std::size_t e = text.find_first_of("eE");
  const std::string_view digits = text.substr(0, e);
  const std::string_view exponent = e == text.npos ? "0" : text.substr(e + 1);
  const std::size_t first = digits.find_first_of("123456789");
  if (first == digits.npos) return false;
  const std::size_t point = std::min(digits.find('.'), digits.size());
  // The power of ten of the first digit that is not 0.
  const auto place = first < point ? static_cast<std::int64_t>(point - first) - 1
                                   : static_cast<std::int64_t>(point) - static_cast<std::int64_t>(first);
  const auto power = parse_whole<std::int64_t>(exponent);
  if (!power) return !exponent.starts_with('-');  // more digits than any text has
  std::int64_t sum = 0;
  return __builtin_add_overflow(place, *power, &sum) ? *power > 0 : sum >= 0;
}

/// `value` in the largest unit of 1000^i of which there is at least one, i < units.size().
std::string in_units(double value, std::span<const char* const> units) {
  std::size_t unit = 0;
  // 999.95 would be rounded to "1000.0" of the smaller unit.
  while (unit + 1 < units.size() && std::abs(value) >= (unit == 0 ? 999.5 : 999.95)) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:.0f}{}", value, units[0]);
  return fmt::format("{:.1f}{}", value, units[unit]);
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the table: distances of prefixes of a of length i - 2, i - 1 and i.
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::swap(before, last);
    std::swap(last, row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

std::optional<std::string> nearest_word(std::string_view word, std::span<const std::string> known) {
  if (word.empty()) return std::nullopt;
  const std::string wanted = to_lower(word);
  std::optional<std::string> best;
  std::size_t best_distance = 0;
  for (const std::string& candidate : known) {
    const std::size_t shorter = std::min(wanted.size(), candidate.size());
    const std::size_t longer = std::max(wanted.size(), candidate.size());
    const std::size_t limit = std::max<std::size_t>(1, shorter / 3);
    if (shorter == 0 || longer - shorter > limit) continue;
    const std::size_t distance = edit_distance(wanted, to_lower(candidate));
    // One letter in place of another one-letter word is no likeness.
    if (distance > limit || distance >= longer) continue;
    if (!best || distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  if (best) return best;
  best = the_only(known, [&](const std::string& k) { return k.starts_with(wanted); });
  if (best) return best;
  return the_only(known, [&](const std::string& k) { return last_part(k) == last_part(wanted); });
}

std::optional<std::int64_t> parse_int64(std::string_view text) {
  return parse_whole<std::int64_t>(text);
}

std::optional<double> parse_double(std::string_view text) {
  const std::optional<double> value = parse_whole<double>(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

DecimalText read_decimal(std::string_view text) {
  using Kind = DecimalText::Kind;
  text = without_plus(text);
  double value = 0;
  const char* const last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, value);
  if (end != last || error == std::errc::invalid_argument) return {};
  if (error == std::errc()) return std::isfinite(value) ? DecimalText{Kind::number, value} : DecimalText{};
  const double sign = text.front() == '-' ? -1 : 1;
  return at_least_one(text) ? DecimalText{Kind::too_large, sign * std::numeric_limits<double>::infinity()}
                            : DecimalText{Kind::too_small, sign * 0.0};
}

std::optional<bool> parse_bool(std::string_view text) {
  const std::string t = to_lower(text);
  if (t == "true" || t == "yes" || t == "on" || t == "1") return true;
  if (t == "false" || t == "no" || t == "off" || t == "0") return false;
  return std::nullopt;
}

std::string_view trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(blanks);
  if (begin == std::string_view::npos) return text.substr(0, 0);
  return text.substr(begin, text.find_last_not_of(blanks) + 1 - begin);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> fields;
  for (std::size_t begin = 0;;) {
    const std::size_t end = text.find(separator, begin);
    fields.push_back(text.substr(begin, end == std::string_view::npos ? end : end - begin));
    if (end == std::string_view::npos) return fields;
    begin = end + 1;
  }
}

std::string to_lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = lower(c);
  return out;
}

std::string human_bytes(std::uint64_t bytes) {
  static constexpr std::array units{" B", " kB", " MB", " GB", " TB", " PB", " EB"};
  return in_units(static_cast<double>(bytes), units);
}

std::string human_count(double count) {
  static constexpr std::array units{"", " k", " M", " G", " T", " P", " E"};
  return in_units(count, units);
}

std::string human_duration(double seconds) {
  // The upper bound keeps the conversion to an integer defined: some 30,000 years.
  if (!(seconds >= 0) || seconds > 1e12) return "?";
  if (seconds < 0.9995) return fmt::format("{:.0f}ms", seconds * 1000);
  if (seconds < 9.95) return fmt::format("{:.1f}s", seconds);
  const auto s = static_cast<std::int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m {:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h {:02}m", s / 3600, s % 3600 / 60);
  return fmt::format("{}d {:02}h", s / 86400, s % 86400 / 3600);
}

std::string time_text() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  const std::time_t seconds = static_cast<std::time_t>(ms / 1000);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char text[32] = "";
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  return fmt::format("{}.{:03}Z", text, ms % 1000);
}

std::string grouped_digits(std::int64_t count) {
  std::string digits = std::to_string(count);
  const std::size_t first = count < 0 ? 1 : 0;
  for (std::size_t at = digits.size(); at > first + 3;) {
    at -= 3;
    digits.insert(at, 1, ',');
  }
  return digits;
}

std::string program_name() {
  // A login shell has a '-' before its name, and a program can be started without any name.
  const std::string name = printable(program_invocation_short_name);
  return name.empty() || name.front() == '-' ? "lockstep" : name;
}

std::string shell_word(std::string_view text) {
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c >= 0x80 ||
           std::string_view("_-./:=,+@%").find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (plain) return std::string(text);
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word + "'";
}

std::string number_list_text(const std::vector<int>& cpus) {
  std::string text;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t end = i;
    while (end + 1 < cpus.size() && cpus[end + 1] == cpus[end] + 1) ++end;
    text += fmt::format("{}{}", text.empty() ? "" : ",", cpus[i]);
    if (end > i) text += fmt::format("-{}", cpus[end]);
    i = end + 1;
  }
  return text;
}

}  // namespace lockstep
