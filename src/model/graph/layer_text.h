#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// The text of model.layers, in pieces that know where they stand, and the messages about it.

namespace lockstep {

/// A piece of the line.
struct Piece {
  std::string_view text;
  std::size_t begin = 0;  ///< byte in the line
  std::size_t end() const { return begin + text.size(); }
};

/// `text` in quotes for messages: what cannot be shown becomes '?' or an escape, and long text is cut.
std::string quoted_piece(std::string_view text);

/// ", did you mean 'conv'?" or "; known: conv, dense".
std::string spelling_hint(std::string_view word, std::span<const std::string> known);

/// The pieces between separators.
std::vector<Piece> split_piece(Piece piece, char separator);

/// The whole line. The text must outlive it.
class LayersText {
 public:
  explicit LayersText(std::string_view text) : text_(text) {}

  /// What stands between blanks.
  std::vector<Piece> layers() const;
  /// Throws ConfigError: `message`, the line, and a caret under byte `at` (the end of the line is allowed).
  [[noreturn]] void fail(std::size_t at, const std::string& message) const;
  /// The code point at byte `at`, quoted.
  std::string character(std::size_t at) const;

 private:
  std::string_view text_;
};

}  // namespace lockstep
