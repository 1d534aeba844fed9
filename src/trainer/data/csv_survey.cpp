#include "trainer/data/csv_survey.h"

#include <fmt/format.h>
#include <map>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "trainer/data/csv_reader.h"
#include "trainer/data/csv_text.h"

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
  each_record(source, [&](const CsvReader& reader) {
    Lines& lines = by_count[reader.fields().size()];
    if (lines.count++ == 0) lines.first = reader.line();
    if (all++ == 0) first_line = reader.line();
  });
  const std::int64_t like_first = by_count[expected].count;
  for (const auto& [count, lines] : by_count) {
    if (count == expected || lines.count <= like_first || lines.count + like_first != all) continue;
    if (like_first > 1) continue;
    throw InputError(
        fmt::format("{} line {} has {} fields, {}{}", source.origin, first_line, expected,
                    other_lines(lines.count, count),
                    count == expected + 1
                        ? ": its header lacks a name, as R's write.table leaves out that of the row names"
                        : ""));
  }
  if (like_first > 2 && like_first == all - 1) {
    throw InputError(fmt::format("{} line {} has {} fields, {}: repair or drop the line", source.origin, line,
                                 fields, other_lines(like_first, expected)));
  }
  throw InputError(fmt::format(
      "{} line {} has {} fields, but the first line has {}{}", source.origin, line, fields, expected,
      all > 2 ? fmt::format("; {} of {} lines have {}", like_first, all, expected) : ""));
}

std::string other_fields(const CsvSource& source, const CsvColumns& columns, std::size_t column) {
  std::int64_t numbers = 0;
  std::int64_t empty = 0;
  std::int64_t others = 0;
  bool header = columns.header;
  each_record(source, [&](const CsvReader& reader) {
    if (header) {
      header = false;
      return;
    }
    if (reader.fields().size() <= column) return;
    const std::string_view field = trim(reader.fields()[column]);
    ++(field.empty() ? empty : parse_double(field) ? numbers : others);
  });
  const std::int64_t all = numbers + empty + others;
  if (all < 3) return "";
  const std::string drop = fmt::format(
      "leave the column out with data.drop = {}",
      columns.header && columns.names[column].find(',') == std::string::npos && !columns.names[column].empty()
          ? printable(columns.names[column].substr(0, 40))
          : fmt::format("{}", column));
  if (numbers == 0) return fmt::format("; none of its {} fields is: {}", all, drop);
  if (numbers == all - 1) return fmt::format("; the other {} fields of the column are", numbers);
  const std::string share =
      empty > 0 && others > 0
          ? fmt::format("{} of its {} fields are words and {} are empty", others, all, empty)
          : fmt::format("{} of its {} fields are {}", empty + others, all,
                        empty > 0 ? "empty" : "no numbers");
  return fmt::format("; {}: repair them, or {}", share, drop);
}

}  // namespace lockstep
