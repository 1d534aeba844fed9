#include "data/readers/csv_header.h"

#include <algorithm>
#include <fmt/format.h>
#include <optional>
#include <set>
#include <string>

#include "core/error.h"
#include "core/text.h"
#include "data/readers/csv_reader.h"
#include "data/readers/csv_text.h"

namespace lockstep {

namespace {

/// pandas writes the rows' index under an empty name, or reads one and calls it so.
bool nameless(std::string_view field) {
  return trim(field).empty() || trim(field).starts_with("Unnamed:");
}

/// Fields that count up with their columns; none where they do not.
struct Counting {
  std::size_t fields = 0;
  bool from_zero = false;  // at the first column, or the first behind those without a name
};
Counting counting(const std::vector<std::string_view>& fields, const std::vector<std::size_t>& columns) {
  const auto unnamed = std::count_if(fields.begin(), fields.end(), nameless);
  std::optional<std::int64_t> ahead;
  for (const std::size_t column : columns) {
    const auto value = parse_int64(fields[column]);
    std::int64_t difference = 0;
    if (!value || fields[column] != std::to_string(*value) ||
        __builtin_sub_overflow(*value, static_cast<std::int64_t>(column), &difference) ||
        (ahead && difference != *ahead))
      return {};
    ahead = difference;
  }
  return {columns.size(), ahead && (*ahead == 0 || *ahead == -unnamed)};
}

/// "3.0"
bool is_pointed(std::string_view field, std::int64_t value) {
  return field == fmt::format("{}.0", value);
}

/// "0.0", "1.0", "2.0": as a table of float64 has its columns' numbers.
bool counts_in_floats(const std::vector<std::string_view>& fields) {
  for (std::size_t i = 0; i < fields.size(); ++i)
    if (!is_pointed(fields[i], static_cast<std::int64_t>(i))) return false;
  return fields.size() >= 3;
}

/// What the lines after the first one hold.
struct Rest {
  std::int64_t lines = 0;
  std::int64_t number_labels = 0;
  std::set<std::string, std::less<>> word_labels;
  bool label_again = false;    // the first line's label stands there too
  bool bare_integers = false;  // some feature is written without point and exponent
  bool whole_line = false;     // some line holds nothing but whole numbers, written with a point
};

class Judge {
 public:
  Judge(const CsvSource& source, const FirstLine& first, LabelUse use)
      : source_(source), first_(first), use_(use) {
    for (std::size_t i = 0; i < first.fields.size(); ++i) {
      if (holds_column(first.labels, i) || holds_column(first.dropped, i)) continue;
      (nameless(first.fields[i]) ? nameless_ : number_like(first.fields[i]) ? numbers_ : words_).push_back(i);
    }
  }

  bool header() const {
    if (numbers_.empty()) return true;
    if (!words_.empty()) refuse_mixture();
    const Counting features = counting(first_.fields, numbers_);
    // An empty name in front of column numbers is how pandas writes a table with its index.
    if (!nameless_.empty()) {
      if (features.from_zero) return true;
      refuse_mixture();
    }
    const bool word_label = std::any_of(first_.labels.begin(), first_.labels.end(), [&](std::int64_t l) {
      return !number_like(first_.fields[static_cast<std::size_t>(l)]);
    });
    return word_label ? with_word_label(features) : with_number_label(features);
  }

 private:
  /// All features are numbers, and a label is none.
  bool with_word_label(const Counting& features) const {
    const bool named_by_numbers = features.from_zero && features.fields >= 2;
    if (use_ == LabelUse::targets) {
      if (named_by_numbers) return true;
      refuse_doubt("its target is a word, which no sample can have");
    }
    const std::string_view label = first_.fields[static_cast<std::size_t>(first_.labels.front())];
    const Rest rest = read_rest(label);
    if (rest.label_again) return false;
    if (named_by_numbers && rest.lines > 0) return true;
    const std::string alone = fmt::format("its label {} stands in no other line", in_quotes(label));
    // Labels that are numbers elsewhere, or words that come again: this one is unlike them.
    const bool unlike =
        rest.number_labels > 0 ||
        (rest.lines > 0 && static_cast<std::int64_t>(rest.word_labels.size()) * 2 <= rest.lines);
    if (unlike || named_by_numbers) refuse_doubt(alone);
    return false;
  }

  /// All fields are numbers.
  bool with_number_label(const Counting& features) const {
    if (features.fields == 0) return counts_in_floats(first_.fields) && with_floats();
    std::vector<std::size_t> all;
    for (std::size_t i = 0; i < first_.fields.size(); ++i) all.push_back(i);
    const Counting every = counting(first_.fields, all);
    const bool columns = every.from_zero;
    if (!columns && every.fields < 3) return false;
    const Rest rest = read_rest(std::nullopt);
    if (rest.lines > 0) {
      if (use_ == LabelUse::classes && rest.number_labels == 0) return true;
      if (columns && features.fields >= 2 && !rest.bare_integers) return true;
    }
    if (!columns && rest.bare_integers) return false;
    refuse_doubt(fmt::format("its fields count up from {} to {}, as the names of columns may",
                             first_.fields.front(), first_.fields.back()));
  }

  /// They are 0.0, 1.0, 2.0 and so on.
  bool with_floats() const {
    const Rest rest = read_rest(std::nullopt);
    if (rest.lines == 0 || rest.whole_line) return false;
    if (use_ == LabelUse::classes && rest.number_labels == 0) return true;
    refuse_doubt(fmt::format("its fields count up from {} to {}, as the names of columns may",
                             first_.fields.front(), first_.fields.back()));
  }

  Rest read_rest(std::optional<std::string_view> label) const {
    Rest rest;
    CsvReader reader(source_.text, source_.origin, source_.delimiter);
    (void)reader.next();
    while (!rest.label_again && reader.next()) {
      const std::vector<std::string_view>& fields = reader.fields();
      if (fields.size() != first_.fields.size()) continue;  // told when the samples are read
      ++rest.lines;
      for (const std::size_t column : numbers_)
        rest.bare_integers = rest.bare_integers || parse_int64(fields[column]).has_value();
      rest.whole_line =
          rest.whole_line || std::all_of(fields.begin(), fields.end(), [](std::string_view field) {
            const auto value = whole_number(field);
            return value && is_pointed(field, *value);
          });
      if (use_ != LabelUse::classes) continue;
      const std::string_view text = fields[static_cast<std::size_t>(first_.labels.front())];
      rest.label_again = label && text == *label;
      if (number_like(text)) {
        ++rest.number_labels;
      } else if (rest.word_labels.find(text) == rest.word_labels.end()) {
        rest.word_labels.emplace(text);
      }
    }
    return rest;
  }

  [[noreturn]] void refuse_mixture() const {
    const std::size_t number = numbers_.front();
    const std::size_t word = words_.empty() ? nameless_.front() : words_.front();
    const std::size_t words = words_.size() + nameless_.size();
    throw InputError(fmt::format(
        "{} line {} is neither a header nor data: field number {} (from 0) is the number {}, field number {} "
        "is {}; {} of its {} feature fields are numbers. Correct the line, or say with data.header = yes or "
        "no what it is",
        source_.origin, first_.line, number, in_quotes(first_.fields[number]), word,
        in_quotes(first_.fields[word]), numbers_.size(), numbers_.size() + words));
  }
  [[noreturn]] void refuse_doubt(const std::string& why) const {
    throw InputError(fmt::format(
        "{} line {} may be a header or a sample: {}; say with data.header = yes or no which it is",
        source_.origin, first_.line, why));
  }

  const CsvSource& source_;
  const FirstLine& first_;
  LabelUse use_;
  std::vector<std::size_t> numbers_, words_, nameless_;  // feature columns by what the first line holds there
};

}  // namespace

bool first_line_is_header(const CsvSource& source, const FirstLine& first, LabelUse use) {
  return Judge(source, first, use).header();
}

bool counts_columns(const std::vector<std::string_view>& fields) {
  std::vector<std::size_t> all;
  for (std::size_t i = 0; i < fields.size(); ++i) all.push_back(i);
  return counting(fields, all).from_zero;
}

}  // namespace lockstep
