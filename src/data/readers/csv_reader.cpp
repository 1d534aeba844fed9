#include "data/readers/csv_reader.h"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

#include "core/error.h"
#include "core/text.h"

namespace lockstep {

CsvReader::CsvReader(std::string_view text, std::string origin, char delimiter)
    : text_(text), origin_(std::move(origin)), delimiter_(delimiter), runs_(delimiter == ' ') {
  if (text_.starts_with("\xef\xbb\xbf")) at_ = 3;
}

void CsvReader::skip_line_end() {
  if (at_ >= text_.size()) return;
  if (text_[at_] == '\r' && at_ + 1 < text_.size() && text_[at_ + 1] == '\n') ++at_;
  ++at_;
  ++next_line_;
}

std::string_view CsvReader::plain_field() {
  const std::size_t begin = at_;
  while (!at_line_end() && !(runs_ ? is_blank(at_) : text_[at_] == delimiter_)) {
    if (text_[at_] == '"') {
      throw InputError(
          fmt::format("{} line {}: a quote stands inside field number {}, which does not begin with one",
                      origin_, line_, fields_.size()));
    }
    ++at_;
  }
  return trim(text_.substr(begin, at_ - begin));
}

std::string_view CsvReader::quoted_field() {
  const std::size_t begin = ++at_;
  std::string* copy = nullptr;
  std::size_t copied = begin;  // everything of the field before this is in *copy
  while (true) {
    const std::size_t quote = text_.find('"', at_);
    if (quote == text_.npos) {
      throw InputError(fmt::format("{} line {}: the quote that opens field number {} is never closed",
                                   origin_, line_, fields_.size()));
    }
    at_ = quote + 1;
    if (at_ < text_.size() && text_[at_] == '"') {
      if (copy == nullptr) copy = &unescaped_.emplace_back();
      copy->append(text_.substr(copied, at_ - copied));
      copied = ++at_;
      continue;
    }
    const std::string_view raw = text_.substr(begin, quote - begin);
    for (std::size_t i = 0; i < raw.size(); ++i) {
      const bool crlf = raw[i] == '\r' && i + 1 < raw.size() && raw[i + 1] == '\n';
      if ((raw[i] == '\n' || raw[i] == '\r') && !crlf) ++next_line_;
    }
    const std::size_t closed = at_;
    at_ = after_blanks(at_);
    if (!at_line_end() && (runs_ ? at_ == closed : text_[at_] != delimiter_)) {
      throw InputError(fmt::format("{} line {}: text follows the closing quote of field number {}", origin_,
                                   line_, fields_.size()));
    }
    if (copy == nullptr) return raw;
    copy->append(text_.substr(copied, quote - copied));
    return *copy;
  }
}

bool CsvReader::next() {
  fields_.clear();
  unescaped_.clear();
  std::int64_t blank_line = 0;
  while (at_ < text_.size()) {
    line_ = next_line_;
    const std::size_t first = after_blanks(at_);
    if (first < text_.size() && text_[first] != '\n' && text_[first] != '\r') break;
    at_ = first;
    blank_line = line_;
    skip_line_end();
  }
  if (at_ >= text_.size()) return false;
  if (blank_line != 0) {
    throw InputError(fmt::format("{} line {} is blank, but data follow in line {}: remove the blank line",
                                 origin_, blank_line, line_));
  }
  while (true) {
    const std::size_t first = after_blanks(at_);
    if (runs_) at_ = first;
    if (first < text_.size() && text_[first] == '"') {
      at_ = first;
      fields_.push_back(quoted_field());
    } else {
      fields_.push_back(plain_field());
    }
    if (runs_) at_ = after_blanks(at_);
    if (at_line_end()) break;
    if (!runs_) ++at_;
  }
  skip_line_end();
  return true;
}

}  // namespace lockstep
