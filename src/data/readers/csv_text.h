#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

/// Text of the user's for a message: in quotes, short, on one line, cut between characters.
std::string in_quotes(std::string_view text);

/// "'a', 'b' and 3 more".
std::string list_in_quotes(const std::vector<std::string>& texts);

/// Whether a field is meant as a number: a decimal number of any size, or a word for NaN or infinity. Blanks
/// around it do not count.
bool number_like(std::string_view field);

/// The field as a whole number, where it is one that int64 and float64 hold: "7", "7.0", "+7", "7e0".
std::optional<std::int64_t> whole_number(std::string_view field);

/// Digits throughout, however many: a column by its number.
bool is_column_number(std::string_view word);

/// What data.delimiter names: one of , ; | : or comma, semicolon, pipe, colon, tab, space; nothing for other
/// words. A space stands for any run of spaces and tabs.
std::optional<char> parse_delimiter(std::string_view text);
/// As a message names it: "commas", "semicolons", "tabs".
std::string delimiter_name(char delimiter);
/// What separates the fields of a line that does not hold `used`, where one of the others stands in it.
std::optional<char> likely_delimiter(std::string_view line, char used);

}  // namespace lockstep
