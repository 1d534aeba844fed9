#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

/// Damerau-Levenshtein distance in its restricted form (optimal string alignment): the fewest insertions,
/// deletions, substitutions and swaps of neighbours that turn `a` into `b`. Bytes, case-sensitive.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// What the user may have meant by `word`: the known word at the smallest distance (letter case does not
/// count), if at most a third of the shorter word's letters, and at least one, would have to change; else the
/// only known word that begins with `word`; else the only one with the same last part after a '.'. Otherwise
/// none: a far-fetched suggestion is worse than no suggestion. Among equally near words the first of the list
/// wins.
std::optional<std::string> nearest_word(std::string_view word, std::span<const std::string> known);

/// The whole of `text` as a decimal number, or nothing: no blanks, no trailing characters, no overflow.
/// One leading '+' or '-' is taken.
std::optional<std::int64_t> parse_int64(std::string_view text);

/// The whole of `text` as a finite decimal number, or nothing. "nan", "inf", hexadecimal and values outside
/// the range of float64 are refused; the decimal point is '.' in every locale.
std::optional<double> parse_double(std::string_view text);

/// A text that should be a decimal number. A range error is no syntax error: "1e400" is a number too, which
/// float64 cannot hold.
struct DecimalText {
  enum class Kind {
    number,     ///< `value` is the nearest float64
    too_small,  ///< not 0, but too near to 0 for float64: `value` is 0 with its sign
    too_large,  ///< beyond the largest float64: `value` is infinite with its sign
    no_number   ///< `value` is 0
  };
  Kind kind = Kind::no_number;
  double value = 0;
};
/// Reads what parse_double() reads, and says of the rest why it is refused.
DecimalText read_decimal(std::string_view text);

/// true, false, yes, no, on, off, 1, 0 in any letter case, or nothing.
std::optional<bool> parse_bool(std::string_view text);

/// `text` without blanks (space, tab, CR, LF, FF, VT) at both ends; a view into it.
std::string_view trim(std::string_view text);

/// The fields between separators, as views into `text`; one more than there are separators, so "" has one.
std::vector<std::string_view> split(std::string_view text, char separator);

/// `text` with ASCII letters in lower case.
std::string to_lower(std::string_view text);

/// "812 B", "44.7 MB": powers of 1000.
std::string human_bytes(std::uint64_t bytes);

/// "350ms", "4.2s", "45s", "1m 23s", "2h 05m", "3d 04h"; "?" for what is negative or not finite.
std::string human_duration(double seconds);

/// "812", "60.0 k", "11.2 M", "1.8 G": powers of 1000.
std::string human_count(double count);

/// The time of day as "2026-03-01T09:30:00.250Z", in UTC.
std::string time_text();

/// "60,000": all digits, in groups of three.
std::string grouped_digits(std::int64_t count);

/// The name by which this program was started, without folders: "lockstep", or that of a program built on the
/// library. For messages that say what to type.
std::string program_name();

/// `text` as one word of a POSIX shell: as it is where no character of it means anything there, else quoted.
std::string shell_word(std::string_view text);

/// "0-3,8": ascending numbers for people.
std::string number_list_text(const std::vector<int>& numbers);

}  // namespace lockstep
