#include "model/graph/layer_text.h"

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"

namespace lockstep {

namespace {

constexpr std::string_view blanks = " \t\r\n\f\v";
constexpr std::size_t longest_excerpt = 60;  // code points on either side of the caret

/// The code point that begins at text[i]: its length in bytes, 0 where the bytes are not UTF-8 or not
/// printable.
std::size_t printable_length(std::string_view text, std::size_t i) {
  const auto lead = static_cast<unsigned char>(text[i]);
  if (lead < 0x80) return lead >= 0x20 && lead != 0x7f ? 1 : 0;
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || i + length > text.size()) return 0;
  for (std::size_t k = 1; k < length; ++k) {
    if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return 0;
  }
  return length;
}

/// The code points of `text`; what cannot be shown becomes '?' or an escape, and any blank a space.
std::vector<std::string> shown(std::string_view text) {
  std::vector<std::string> points;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = printable_length(text, i);
    if (blanks.find(text[i]) != std::string_view::npos) {
      points.emplace_back(" ");
    } else {
      points.push_back(length == 0 ? "?" : printable(text.substr(i, length)));
    }
    i += std::max<std::size_t>(length, 1);
  }
  return points;
}

std::string joined(std::span<const std::string> words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

}  // namespace

std::string quoted_piece(std::string_view text) {
  const std::vector<std::string> points = shown(text);
  std::string out = "'";
  for (std::size_t i = 0; i < points.size() && i < longest_excerpt; ++i) out += points[i];
  return out + (points.size() > longest_excerpt ? "...'" : "'");
}

std::vector<Piece> LayersText::layers() const {
  std::vector<Piece> found;
  for (std::size_t i = text_.find_first_not_of(blanks); i != std::string_view::npos;) {
    const std::size_t end = std::min(text_.find_first_of(blanks, i), text_.size());
    found.push_back({text_.substr(i, end - i), i});
    i = text_.find_first_not_of(blanks, end);
  }
  return found;
}

void LayersText::fail(std::size_t at, const std::string& message) const {
  const std::vector<std::string> points = shown(text_);
  const std::size_t caret = shown(text_.substr(0, at)).size();
  const std::size_t first = caret > longest_excerpt ? caret - longest_excerpt : 0;
  const std::size_t last = std::min(points.size(), caret + longest_excerpt);
  std::string excerpt = first > 0 ? "..." : "";
  std::size_t indent = 0;
  for (std::size_t i = first; i < last; ++i) {
    if (i == caret) indent = display_width(excerpt);
    excerpt += points[i];
  }
  if (caret >= last) indent = display_width(excerpt);
  if (last < points.size()) excerpt += "...";
  throw ConfigError("model.layers: " + message + " (character " + std::to_string(caret + 1) + ")\n  " +
                    excerpt + "\n  " + std::string(indent, ' ') + "^");
}

std::string LayersText::character(std::size_t at) const {
  return quoted_piece(text_.substr(at, std::max<std::size_t>(1, printable_length(text_, at))));
}

std::vector<Piece> split_piece(Piece piece, char separator) {
  std::vector<Piece> parts;
  for (const std::string_view text : split(piece.text, separator)) {
    parts.push_back({text, piece.begin + static_cast<std::size_t>(text.data() - piece.text.data())});
  }
  return parts;
}

std::string spelling_hint(std::string_view word, std::span<const std::string> known) {
  if (const auto nearest = nearest_word(word, known)) return ", did you mean '" + *nearest + "'?";
  return "; known: " + joined(known);
}

}  // namespace lockstep
