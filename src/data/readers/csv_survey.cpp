#include "data/readers/csv_survey.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <optional>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "data/readers/csv_reader.h"
#include "data/readers/csv_text.h"

namespace lockstep {

namespace {

/// Calls `see` for every record, up to where the file is broken: that is another message.
template <class See>
void each_record(const CsvSource& source, See see) {
  CsvReader reader(source.text, source.origin, source.delimiter);
  try {
    while (reader.next()) see(reader);
  } catch (const InputError&) {
  }
}

struct Lines {
  std::int64_t count = 0;
  std::int64_t first = 0;
};

std::string fields_text(std::size_t count) {
  return counted(static_cast<std::int64_t>(count), "field");
}

/// How many fields the first two records have; 0 for what cannot be read.
std::pair<std::size_t, std::size_t> first_counts(const CsvSource& source, char delimiter) {
  CsvReader reader(source.text, source.origin, delimiter);
  std::pair<std::size_t, std::size_t> counts;
  try {
    if (reader.next()) counts.first = reader.fields().size();
    if (reader.next()) counts.second = reader.fields().size();
  } catch (const InputError&) {
  }
  return counts;
}

/// Another separator of the first line that does not fit the second one less.
std::optional<char> fitting_delimiter(const CsvSource& source) {
  const auto other = likely_delimiter(source.text, source.delimiter);
  if (!other) return std::nullopt;
  const auto [first, second] = first_counts(source, *other);
  const bool fits = second == 0 || second == first || first_counts(source, source.delimiter).second < 2;
  return fits ? other : std::nullopt;
}

/// What the fields of one column are, below a header.
struct Fields {
  std::int64_t numbers = 0;
  std::int64_t empty = 0;
  std::int64_t others = 0;
  std::int64_t all() const { return numbers + empty + others; }
};
Fields fields_of(const CsvSource& source, const CsvColumns& columns, std::size_t column) {
  Fields found;
  bool header = columns.header;
  each_record(source, [&](const CsvReader& reader) {
    if (header) {
      header = false;
      return;
    }
    if (reader.fields().size() <= column) return;
    const std::string_view field = trim(reader.fields()[column]);
    ++(field.empty() ? found.empty : parse_double(field) ? found.numbers : found.others);
  });
  return found;
}

bool is_target(const CsvColumns& columns, std::size_t column) {
  return std::find(columns.labels.begin(), columns.labels.end(), column) != columns.labels.end();
}

std::string other_lines(std::int64_t count, std::size_t fields) {
  return count == 1 ? fmt::format("but the other line has {}", fields)
                    : fmt::format("but the other {} lines have {}", count, fields);
}

}  // namespace

void refuse_field_count(const CsvSource& source, std::int64_t line, std::size_t fields,
                        std::size_t expected) {
  std::map<std::size_t, Lines> by_count;
  std::int64_t all = 0;
  std::int64_t first_line = 0;
  bool comment = false;
  std::int64_t ends_empty = 0;  // lines that end with a separator
  each_record(source, [&](const CsvReader& reader) {
    ends_empty += reader.fields().back().empty() ? 1 : 0;
    Lines& lines = by_count[reader.fields().size()];
    if (lines.count++ == 0) lines.first = reader.line();
    if (all++ != 0) return;
    first_line = reader.line();
    comment = reader.fields().front().starts_with('#');
  });
  const std::int64_t like_first = by_count[expected].count;
  for (const auto& [count, lines] : by_count) {
    if (count == expected || lines.count <= like_first || lines.count + like_first != all) continue;
    if (like_first > 1) continue;
    const char* why = "";
    if (comment || expected == 1)
      why = ": is it a comment or a title? Remove it";
    else if (count == expected + 1 && ends_empty == lines.count)
      why = ": they end with a separator, which makes an empty column: remove it";
    else if (count == expected + 1)
      why = ": its header lacks a name, as R's write.table leaves out that of the row names";
    throw InputError(fmt::format("{} line {} has {}, {}{}", source.origin, first_line, fields_text(expected),
                                 other_lines(lines.count, count), why));
  }
  if (like_first > 2 && like_first == all - 1) {
    throw InputError(fmt::format("{} line {} has {}, {}: repair or drop the line", source.origin, line,
                                 fields_text(fields), other_lines(like_first, expected)));
  }
  throw InputError(fmt::format(
      "{} line {} has {}, but the first line has {}{}", source.origin, line, fields_text(fields), expected,
      all > 2 ? fmt::format("; {} of {} lines have {}", like_first, all, expected) : ""));
}

void refuse_lone_first_line(const CsvSource& source) {
  const auto [first, second] = first_counts(source, source.delimiter);
  if (first != 1 || second < 2 || fitting_delimiter(source)) return;
  CsvReader reader(source.text, source.origin, source.delimiter);
  if (reader.next() && reader.next()) refuse_field_count(source, reader.line(), second, first);
}

std::string delimiter_hint(const CsvSource& source, std::int64_t line) {
  const auto other = fitting_delimiter(source);
  return other ? fmt::format("; line {} looks separated by {}: set data.delimiter", line,
                             delimiter_name(*other))
               : "";
}

std::string empty_column(const CsvSource& source, const CsvColumns& columns, std::size_t column,
                         const CsvOptions& options) {
  const Fields found = fields_of(source, columns, column);
  if (found.all() < 3 || found.empty != found.all()) return "";
  const bool last = column + 1 == columns.names.size();
  return fmt::format("; all {} fields of the column are: {}{}", found.all(),
                     last ? "remove the separator at the end of every line" : "fill it",
                     options.trained == nullptr ? ", or name another column in data.label" : "");
}

std::string other_fields(const CsvSource& source, const CsvColumns& columns, std::size_t column,
                         const CsvOptions& options) {
  const auto [numbers, empty, others] = fields_of(source, columns, column);
  const std::int64_t all = numbers + empty + others;
  if (all < 3) return "";
  const bool target = is_target(columns, column);
  if (target && empty == all) return empty_column(source, columns, column, options);
  std::string way;
  if (options.trained != nullptr)  // which columns there are is decided
    way = numbers == 0 ? "the training file has numbers there" : "";
  else if (target)
    way = numbers == 0 ? "name another column in data.label, or set loss.name = cross_entropy for classes"
                       : "name another column in data.label";
  else
    way = fmt::format("leave the column out with data.drop = {}",
                      columns.header && columns.names[column].find(',') == std::string::npos &&
                              !columns.names[column].empty()
                          ? printable(columns.names[column].substr(0, 40))
                          : fmt::format("{}", column));
  if (numbers == 0) return fmt::format("; none of its {} fields is: {}", all, way);
  if (numbers == all - 1) return fmt::format("; the other {} fields of the column are", numbers);
  const std::string share = empty > 0 && others > 0
                                ? fmt::format("{} of its {} fields {} and {} empty", others, all,
                                              others == 1 ? "is a word" : "are words",
                                              empty == 1 ? "1 is" : fmt::format("{} are", empty))
                                : fmt::format("{} of its {} fields are {}", empty + others, all,
                                              empty > 0 ? "empty" : "no numbers");
  return fmt::format("; {}: repair them{}", share, way.empty() ? "" : ", or " + way);
}

}  // namespace lockstep
