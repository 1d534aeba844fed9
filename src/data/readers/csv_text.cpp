#include "data/readers/csv_text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fmt/format.h>

#include "core/printable.h"
#include "core/text.h"

namespace lockstep {

namespace {

struct Delimiter {
  char character;
  const char* word;    // a second way to write it in the config
  const char* plural;  // for messages
};
constexpr std::array delimiters{Delimiter{',', "comma", "commas"}, Delimiter{';', "semicolon", "semicolons"},
                                Delimiter{'\t', "tab", "tabs"},    Delimiter{'|', "pipe", "'|'"},
                                Delimiter{':', "colon", "colons"}, Delimiter{' ', "space", "blanks"}};

}  // namespace

std::string in_quotes(std::string_view text) {
  constexpr std::size_t most = 40;
  std::size_t kept = std::min(text.size(), most);
  // Bytes 10xxxxxx continue a character of UTF-8.
  while (kept > 0 && kept < text.size() && (static_cast<unsigned char>(text[kept]) & 0xc0) == 0x80) --kept;
  return "'" + printable(std::string(text.substr(0, kept))) + (kept < text.size() ? "…'" : "'");
}

std::string list_in_quotes(const std::vector<std::string>& texts) {
  constexpr std::size_t most = 8;
  std::string list;
  for (std::size_t i = 0; i < std::min(texts.size(), most); ++i)
    list += (i == 0 ? "" : ", ") + in_quotes(texts[i]);
  return list + (texts.size() > most ? fmt::format(" and {} more", texts.size() - most) : "");
}

bool number_like(std::string_view field) {
  field = trim(field);
  if (read_decimal(field).kind != DecimalText::Kind::no_number) return true;
  std::string word = to_lower(field);
  if (!word.empty() && (word[0] == '+' || word[0] == '-')) word.erase(0, 1);
  return word == "nan" || word == "inf" || word == "infinity";
}

std::optional<std::int64_t> whole_number(std::string_view field) {
  field = trim(field);
  if (const auto integer = parse_int64(field)) return integer;
  const auto real = parse_double(field);
  constexpr double beyond = 0x1p53;  // from here on float64 skips whole numbers
  if (!real || *real != std::floor(*real) || std::abs(*real) >= beyond) return std::nullopt;
  return static_cast<std::int64_t>(*real);
}

bool is_column_number(std::string_view word) {
  if (word.starts_with('-') || word.starts_with('+')) word.remove_prefix(1);
  return !word.empty() && word.find_first_not_of("0123456789") == word.npos;
}

std::optional<char> parse_delimiter(std::string_view text) {
  for (const Delimiter& d : delimiters) {
    if (text == d.word || (text.size() == 1 && text[0] == d.character)) return d.character;
  }
  return std::nullopt;
}

std::string delimiter_name(char delimiter) {
  for (const Delimiter& d : delimiters) {
    if (d.character == delimiter) return d.plural;
  }
  return fmt::format("'{}'", delimiter);
}

std::optional<char> likely_delimiter(std::string_view line, char used) {
  line = line.substr(0, line.find_first_of("\r\n"));
  if (line.find(used) != line.npos) return std::nullopt;
  for (const Delimiter& d : delimiters) {
    if (trim(line).find(d.character) != line.npos) return d.character;
  }
  return std::nullopt;
}

}  // namespace lockstep
