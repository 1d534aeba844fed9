#include "trainer/data/csv_index.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fmt/format.h>
#include <string_view>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "trainer/data/csv_text.h"

namespace lockstep {

namespace {

constexpr std::int64_t fewest = 3;  // samples, below which counting is chance

/// Names that people give to what tells rows apart.
bool reads_as_index(const std::string& name) {
  const std::string word = to_lower(name);
  constexpr std::array<std::string_view, 12> known{
      "id", "idx", "index", "row", "rowid", "row.names", "row name", "rownames", "uid", "uuid", "no", "nr"};
  if (std::find(known.begin(), known.end(), word) != known.end()) return true;
  return word.ends_with("_id") || word.ends_with(" id") || word.ends_with("-id") || word.ends_with("_index");
}

}  // namespace

IndexWatch::IndexWatch(const CsvColumns& columns) : header_(columns.header), names_(columns.names) {
  for (const std::size_t place : columns.features) {
    Column column;
    column.place = place;
    const std::string& name = names_[place];
    column.nameless = header_ && (name.empty() || name.starts_with("Unnamed:"));
    column.suspect = header_ && (column.nameless || reads_as_index(name));
    columns_.push_back(std::move(column));
  }
}

void IndexWatch::start(std::size_t feature, double value) {
  Column& column = columns_[feature];
  column.counts = value == std::floor(value);
  column.first = column.next = value;
}

bool IndexWatch::different_integers(std::vector<double>& values) {
  std::sort(values.begin(), values.end());
  return std::all_of(values.begin(), values.end(), [](double v) { return v == std::floor(v); }) &&
         std::adjacent_find(values.begin(), values.end()) == values.end();
}

std::string IndexWatch::drop_word(std::size_t place) const {
  const std::string& name = names_[place];
  const std::string number = fmt::format("{}", place);
  // A name wins over a number.
  const bool taken = header_ && std::find(names_.begin(), names_.end(), number) != names_.end();
  if (!header_ || (name.empty() && !taken)) return number;
  if (name.empty()) return "Unnamed: " + number;
  return name.find(',') == std::string::npos ? printable(name.substr(0, 40)) : number;
}

std::vector<std::string> IndexWatch::findings(const std::string& origin, std::int64_t samples) {
  std::vector<std::string> warnings;
  for (Column& column : columns_) {
    const bool different = column.suspect && different_integers(column.values);
    const std::string& name = names_[column.place];
    const std::string what = column.nameless && name.empty()
                                 ? fmt::format("column number {} (from 0), which has no name,", column.place)
                             : header_ ? "column " + in_quotes(name)
                                       : fmt::format("column number {} (from 0)", column.place);
    const std::string drop = "data.drop = " + drop_word(column.place);
    if (column.nameless && different && samples > 1) {
      throw InputError(fmt::format(
          "{}: {} holds {}, as the index that pandas writes: it tells where a sample stands and not what it "
          "is. Leave it out with {}; if it is a feature, give it a name",
          origin, what,
          column.counts ? fmt::format("{:.0f}, {:.0f}, …", column.first, column.first + 1)
                        : "another whole number in every line",
          drop));
    }
    if (samples < fewest || !(column.counts || different || column.nameless)) continue;
    warnings.push_back(fmt::format(
        "{}: {} {}; it is taken as a feature: {} leaves it out", origin, what,
        column.counts ? fmt::format("counts the lines from {:.0f}, as an index or id does", column.first)
        : different   ? "holds another whole number in every line, as an id does"
                      : "is a feature",
        drop));
  }
  return warnings;
}

}  // namespace lockstep
