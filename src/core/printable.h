#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

// What came from outside (names, paths, values, host names) on its way to a terminal. The rules are those of
// Unicode, whatever locale the process runs in.

namespace lockstep {

/// No cut at all.
inline constexpr std::size_t any_width = std::numeric_limits<std::size_t>::max();

/// `text` fit for a terminal: nothing in it moves the cursor, changes colours or the direction of writing, or
/// breaks a line. Control characters become \n, \t, \r or \x1b; other characters that cannot be seen (of
/// format, of private use, unassigned, separators of lines) become \u{202e}; bytes that are no UTF-8 become
/// \xff. What takes more than `widest` columns (at least 1) is cut, and ends with "…".
std::string printable(std::string_view text, std::size_t widest = any_width);

/// The same for a message: lines that a message breaks itself, to go on with a blank, stay. Of what takes
/// more than `widest` columns the middle is left out, since the end tells what to do.
std::string printable_message(std::string_view text, std::size_t widest = 2000);

/// Columns that `text` takes on a terminal: two for wide characters (East Asian), none for those that are
/// drawn over the one before and for controls; one for a byte that is no UTF-8.
std::size_t display_width(std::string_view text);

/// `text` with blanks after or before it, so that it takes `width` columns at least.
std::string pad_right(std::string_view text, std::size_t width);
std::string pad_left(std::string_view text, std::size_t width);

/// Rows of text in columns to the left, two blanks between. Cells are made printable, none wider than
/// `widest`.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> head, std::size_t widest = 60);
  /// As many cells as the head has, or fewer.
  void add(std::vector<std::string> row);
  /// Each line begins with `indent` and ends with a newline; no blanks at its end.
  std::string text(std::string_view indent = "") const;

 private:
  std::size_t widest_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace lockstep
