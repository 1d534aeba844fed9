#include "data/readers/csv_index.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fmt/format.h>
#include <string_view>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "data/readers/csv_text.h"

namespace lockstep {

namespace {

// Samples, below which it is chance.
constexpr std::int64_t fewest = 3;           // for what counts the lines
constexpr std::int64_t fewest_of_steps = 8;  // for other steps
constexpr std::int64_t fewest_in_disorder = 20;

/// Times are seldom written to the last bit.
bool same_step(double step, double other) {
  return step == other || (step != std::floor(step) && std::abs(step - other) <= std::abs(step) * 1e-6);
}

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

void IndexWatch::add(std::size_t feature, double value) {
  Column& column = columns_[feature];
  if (column.samples == 0) {
    column.first = column.low = column.high = value;
  } else if (column.samples == 1) {
    column.step = value - column.last;
    column.steps = column.step != 0;
  } else if (column.steps) {
    column.steps = same_step(column.step, value - column.last);
  }
  column.whole = column.whole && value == std::floor(value);
  column.low = std::min(column.low, value);
  column.high = std::max(column.high, value);
  column.last = value;
  ++column.samples;
  if (column.suspect) column.values.push_back(value);
}

bool IndexWatch::permutes(std::size_t feature, const std::vector<float>& values, double step) const {
  constexpr double exact = 0x1p24;  // from here on float32 skips whole numbers
  const Column& column = columns_[feature];
  if (step < 1 || step != std::floor(step) || std::max(-column.low, column.high) > exact) return false;
  std::vector<bool> seen(static_cast<std::size_t>(column.samples));
  for (std::size_t i = feature; i < values.size(); i += columns_.size()) {
    const double place = (static_cast<double>(values[i]) - column.low) / step;
    if (place != std::floor(place) || seen[static_cast<std::size_t>(place)]) return false;
    seen[static_cast<std::size_t>(place)] = true;
  }
  return true;
}

std::string IndexWatch::counting(std::size_t feature, const std::vector<float>& values) const {
  const Column& column = columns_[feature];
  if (column.samples < fewest) return "";
  if (column.steps && column.whole && column.step == 1)
    return fmt::format("counts the lines from {:.0f}, as an index or id does", column.first);
  // The only feature may be a grid on which a function was taken.
  if (column.steps && column.samples >= fewest_of_steps && (column.whole || columns_.size() > 1))
    return fmt::format("goes {} by {:.6g} from line to line, as an index or a time does",
                       column.step > 0 ? "up" : "down", std::abs(column.step));
  const double step = (column.high - column.low) / static_cast<double>(column.samples - 1);
  if (!column.whole || column.samples < fewest_in_disorder || !permutes(feature, values, step)) return "";
  return fmt::format("holds {:.0f}, {:.0f}, … {:.0f} once each, as an index or id in another order does",
                     column.low, column.low + step, column.high);
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

std::vector<std::string> IndexWatch::findings(const std::string& origin, std::int64_t samples,
                                              const std::vector<float>& values) {
  std::vector<std::string> warnings;
  for (std::size_t feature = 0; feature < columns_.size(); ++feature) {
    Column& column = columns_[feature];
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
          column.steps ? fmt::format("{:.0f}, {:.0f}, …", column.first, column.first + column.step)
                       : "another whole number in every line",
          drop));
    }
    std::string odd = counting(feature, values);
    if (odd.empty() && different) odd = "holds another whole number in every line, as an id does";
    if (samples < fewest || (odd.empty() && !column.nameless)) continue;
    warnings.push_back(fmt::format("{}: {} {}is taken as a feature: {} leaves it out", origin, what,
                                   odd.empty() ? "" : odd + "; it ", drop));
  }
  return warnings;
}

}  // namespace lockstep
