#include "core/printable.h"

#include <algorithm>
#include <fmt/format.h>
#include <utf8proc.h>
#include <utility>

#include "core/error.h"

namespace lockstep {
namespace {

/// What stands at one place of a text: a character, or a byte that is part of none.
struct Piece {
  utf8proc_int32_t character = -1;  // -1: a byte that is no UTF-8
  std::size_t bytes = 1;
};

Piece piece_at(std::string_view text, std::size_t at) {
  const std::size_t length = std::min<std::size_t>(text.size() - at, 4);
  utf8proc_int32_t character = -1;
  const utf8proc_ssize_t read = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at),
                                                 static_cast<utf8proc_ssize_t>(length), &character);
  if (read <= 0 || character < 0) return {};
  return {character, static_cast<std::size_t>(read)};
}

/// Whether a terminal shows the character, and nothing else happens.
bool is_shown(utf8proc_int32_t character) {
  switch (utf8proc_category(character)) {
    case UTF8PROC_CATEGORY_CN:  // unassigned
    case UTF8PROC_CATEGORY_CC:  // controls
    case UTF8PROC_CATEGORY_CF:  // format: directions, joiners, marks of byte order
    case UTF8PROC_CATEGORY_CS:  // surrogates
    case UTF8PROC_CATEGORY_CO:  // private use
    case UTF8PROC_CATEGORY_ZL:  // separators of lines and paragraphs
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

std::string escaped(utf8proc_int32_t character) {
  switch (character) {
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return character < 0x80 ? fmt::format("\\x{:02x}", character) : fmt::format("\\u{{{:x}}}", character);
  }
}

std::size_t width_of(utf8proc_int32_t character) {
  // The soft hyphen is a character of format, and is escaped before it is measured.
  return static_cast<std::size_t>(std::max(utf8proc_charwidth(character), 0));
}

/// One printable piece and its columns.
struct Shown {
  std::string text;
  std::size_t width;
};

Shown shown_at(std::string_view text, std::size_t at, const Piece& piece) {
  if (piece.character >= 0 && is_shown(piece.character))
    return {std::string(text.substr(at, piece.bytes)), width_of(piece.character)};
  std::string escape = piece.character >= 0 ? escaped(piece.character)
                                            : fmt::format("\\x{:02x}", static_cast<unsigned char>(text[at]));
  const std::size_t width = escape.size();
  return {std::move(escape), width};
}

// A base takes any number of marks that have no width: more than a few hide what stands in other lines.
constexpr int most_marks = 8;

std::vector<Shown> shown(std::string_view text, bool keep_lines) {
  std::vector<Shown> pieces;
  int marks = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Piece piece = piece_at(text, at);
    const bool break_of_line =
        keep_lines && text[at] == '\n' && (at + 1 == text.size() || text[at + 1] == ' ');
    Shown next = break_of_line ? Shown{"\n", 1} : shown_at(text, at, piece);
    marks = next.width == 0 ? marks + 1 : 0;
    if (marks > most_marks) {
      next.text = escaped(piece.character);
      next.width = next.text.size();
    }
    pieces.push_back(std::move(next));
    at += piece.bytes;
  }
  return pieces;
}

std::string joined(const std::vector<Shown>& pieces, std::size_t begin, std::size_t end) {
  std::string out;
  for (std::size_t i = begin; i < end; ++i) out += pieces[i].text;
  return out;
}

std::size_t total_width(const std::vector<Shown>& pieces) {
  std::size_t width = 0;
  for (const Shown& piece : pieces) width += piece.width;
  return width;
}

/// How many pieces from the front fit into `width` columns.
std::size_t fitting(const std::vector<Shown>& pieces, std::size_t width) {
  std::size_t i = 0;
  for (std::size_t used = 0; i < pieces.size() && used + pieces[i].width <= width; ++i)
    used += pieces[i].width;
  return i;
}

bool is_plain(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

}  // namespace

std::string printable(std::string_view text, std::size_t widest) {
  if (is_plain(text) && text.size() <= widest) return std::string(text);
  // A character takes at most four bytes; marks without a width are bounded, too.
  const std::size_t most_bytes =
      widest < (std::size_t{1} << 20) ? 4 * (most_marks + 1) * (widest + 1) : any_width;
  const bool longer = text.size() > most_bytes;
  const std::vector<Shown> pieces = shown(text.substr(0, most_bytes), false);
  if (!longer && total_width(pieces) <= widest) return joined(pieces, 0, pieces.size());
  return joined(pieces, 0, fitting(pieces, std::max<std::size_t>(widest, 1) - 1)) + "…";
}

std::string printable_message(std::string_view text, std::size_t widest) {
  if (is_plain(text) && text.size() <= widest) return std::string(text);
  const std::vector<Shown> pieces = shown(text, true);
  if (total_width(pieces) <= widest) return joined(pieces, 0, pieces.size());
  const std::size_t front = fitting(pieces, widest / 2);
  std::size_t back = pieces.size();
  for (std::size_t used = 0; back > front && used + pieces[back - 1].width <= widest / 2; --back)
    used += pieces[back - 1].width;
  return joined(pieces, 0, front) + " … " + joined(pieces, back, pieces.size());
}

std::size_t display_width(std::string_view text) {
  if (is_plain(text)) return text.size();
  std::size_t width = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Piece piece = piece_at(text, at);
    width += piece.character < 0 ? 1 : width_of(piece.character);
    at += piece.bytes;
  }
  return width;
}

std::string pad_right(std::string_view text, std::size_t width) {
  return std::string(text) + std::string(width - std::min(width, display_width(text)), ' ');
}

std::string pad_left(std::string_view text, std::size_t width) {
  return std::string(width - std::min(width, display_width(text)), ' ') + std::string(text);
}

TextTable::TextTable(std::vector<std::string> head, std::size_t widest) : widest_(widest) {
  require(!head.empty(), "a table needs columns");
  rows_.push_back(std::move(head));
}

void TextTable::add(std::vector<std::string> row) {
  require(row.size() <= rows_.front().size(), "a row has more cells than its table has columns");
  for (std::string& cell : row) cell = printable(cell, widest_);
  rows_.push_back(std::move(row));
}

std::string TextTable::text(std::string_view indent) const {
  std::vector<std::size_t> widths(rows_.front().size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], display_width(row[c]));
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line(indent);
    for (std::size_t c = 0; c < row.size(); ++c) line += pad_right(row[c], widths[c]) + "  ";
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

}  // namespace lockstep
