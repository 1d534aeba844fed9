#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

/// Splits RFC 4180 text into records. Line ends are LF, CRLF or CR. Fields are separated by a character;
/// where that is a space, by any run of spaces and tabs, and such blanks at both ends of a line do not count.
class CsvReader {
 public:
  /// `text` must outlive the reader; `origin` names the file in messages. A UTF-8 byte order mark is passed
  /// over.
  CsvReader(std::string_view text, std::string origin, char delimiter = ',');

  /// Reads the next record into fields(). False at the end. Blank lines at the end are passed over, a blank
  /// line that is followed by data is an InputError, as are broken quotes.
  bool next();
  /// Of the last record: unquoted fields without blanks around them. Views valid until the next call of
  /// next().
  const std::vector<std::string_view>& fields() const noexcept { return fields_; }
  /// The line on which the last record begins, from 1.
  std::int64_t line() const noexcept { return line_; }

 private:
  std::string_view quoted_field();
  std::string_view plain_field();
  /// Does not count around a field.
  bool is_blank(std::size_t at) const {
    return at < text_.size() && (text_[at] == ' ' || text_[at] == '\t') && (runs_ || text_[at] != delimiter_);
  }
  std::size_t after_blanks(std::size_t at) const {
    while (is_blank(at)) ++at;
    return at;
  }
  bool at_line_end() const { return at_ >= text_.size() || text_[at_] == '\n' || text_[at_] == '\r'; }
  void skip_line_end();

  std::string_view text_;
  std::string origin_;
  char delimiter_;
  bool runs_;  // of blanks separate
  std::size_t at_ = 0;
  std::int64_t line_ = 0;
  std::int64_t next_line_ = 1;
  std::vector<std::string_view> fields_;
  std::deque<std::string> unescaped_;  // fields with doubled quotes; a deque, so that views stay valid
};

}  // namespace lockstep
