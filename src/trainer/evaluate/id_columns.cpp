#include "trainer/evaluate/id_columns.h"

#include <algorithm>
#include <fmt/format.h>
#include <optional>
#include <string_view>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "data/readers/csv_reader.h"
#include "data/readers/csv_text.h"
#include "trainer/evaluate/csv_field.h"

namespace lockstep {
namespace {

constexpr std::size_t widest_name = 40;
constexpr std::size_t most_chosen = 10;  // columns of --id of which each may be one of the training file

std::vector<std::string> names_of(const std::vector<std::string_view>& first, bool header) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < first.size(); ++i)
    names.push_back(header ? std::string(first[i]) : std::to_string(i));
  return names;
}

/// The places of the columns that are asked for. A name wins over a number.
std::vector<std::size_t> places_of(const std::string& asked, const std::vector<std::string>& names,
                                   const std::string& origin) {
  std::vector<std::size_t> places;
  for (const std::string_view untrimmed : split(asked, ',')) {
    const std::string word(trim(untrimmed));
    const auto named = std::find(names.begin(), names.end(), word);
    auto place = static_cast<std::size_t>(named - names.begin());
    if (named == names.end()) {
      const auto number = parse_int64(word);
      if (!number || *number < 0 || *number >= static_cast<std::int64_t>(names.size())) {
        const auto near = nearest_word(word, names);
        throw ConfigError(
            fmt::format("--id: {} has no column '{}'{}", origin, printable(word, widest_name),
                        near ? fmt::format("; did you mean '{}'?", printable(*near, widest_name))
                             : fmt::format("; give names of its {}, or numbers from 0 on",
                                           counted(static_cast<std::int64_t>(names.size()), "column"))));
      }
      place = static_cast<std::size_t>(*number);
    } else if (std::find(named + 1, names.end(), word) != names.end()) {
      throw ConfigError(fmt::format("--id: {} has two columns named '{}': give its number from 0 on", origin,
                                    printable(word, widest_name)));
    }
    if (std::find(places.begin(), places.end(), place) != places.end())
      throw ConfigError(fmt::format("--id names the column '{}' twice", printable(word, widest_name)));
    places.push_back(place);
  }
  return places;
}

/// One way to read a file whose columns are told by their place: which are taken out, and what the others
/// are.
struct Reading {
  std::vector<bool> taken;
  std::vector<std::size_t> features;
  std::vector<std::size_t> labels;  ///< empty where the file has none
};

/// As match_csv_columns() finds them by place in what is left; nothing where their count does not fit.
std::optional<Reading> reading_without(std::vector<bool> taken, const CsvSchema& trained) {
  std::vector<std::size_t> left;
  for (std::size_t i = 0; i < taken.size(); ++i)
    if (!taken[i]) left.push_back(i);
  const std::size_t all = trained.columns.size();
  const std::size_t unlabelled = all - trained.label_columns.size();
  const bool labels = left.size() == all;
  const bool dropped = labels || left.size() == unlabelled;
  if (!dropped && left.size() != unlabelled - trained.dropped_columns.size()) return std::nullopt;
  Reading reading{std::move(taken), {}, {}};
  std::size_t place = 0;
  for (std::size_t i = 0; i < all; ++i) {
    const bool is_label = holds_column(trained.label_columns, i),
               is_dropped = holds_column(trained.dropped_columns, i);
    if ((is_label && !labels) || (is_dropped && !dropped)) continue;
    if (is_label)
      reading.labels.push_back(left[place]);
    else if (!is_dropped)
      reading.features.push_back(left[place]);
    ++place;
  }
  return reading;
}

/// Every way that fits; that in which most columns are taken out comes first.
std::vector<Reading> readings_of(const std::vector<std::size_t>& places, std::size_t width,
                                 const CsvSchema& trained) {
  std::vector<Reading> readings;
  const std::size_t chosen = std::min(places.size(), most_chosen);  // beyond these all are taken out
  for (std::size_t kept = 0; kept < (std::size_t{1} << chosen); ++kept) {
    std::vector<bool> taken(width, false);
    for (std::size_t i = 0; i < places.size(); ++i) taken[places[i]] = i >= chosen || (kept >> i & 1U) == 0;
    if (auto reading = reading_without(std::move(taken), trained)) readings.push_back(std::move(*reading));
  }
  return readings;
}

/// Drops the readings that the content denies: a feature that is no number, or labels of which each is a
/// number and none a class where the classes are words.
void drop_denied(std::vector<Reading>& readings, const CsvText& text, std::size_t width, bool header,
                 const CsvSchema& trained) {
  std::vector<bool> numbers(width, true), any_class(width, false);
  CsvReader reader(text.content, text.origin, text.delimiter);
  if (header) (void)reader.next();
  while (reader.next()) {
    const std::vector<std::string_view>& fields = reader.fields();
    for (std::size_t i = 0; i < std::min(width, fields.size()); ++i) {
      if (numbers[i] && !number_like(fields[i])) numbers[i] = false;
      if (!any_class[i] &&
          std::binary_search(trained.class_names.begin(), trained.class_names.end(), fields[i]))
        any_class[i] = true;
    }
  }
  const auto denied = [&](const Reading& r) {
    const auto no_number = [&](std::size_t column) { return !numbers[column]; };
    const auto no_class = [&](std::size_t column) { return numbers[column] && !any_class[column]; };
    return std::any_of(r.features.begin(), r.features.end(), no_number) ||
           (!trained.class_names.empty() && std::any_of(r.labels.begin(), r.labels.end(), no_class));
  };
  if (std::all_of(readings.begin(), readings.end(), denied))
    readings.erase(readings.begin() + 1, readings.end());  // what is wrong with it is told when it is read
  else
    readings.erase(std::remove_if(readings.begin(), readings.end(), denied), readings.end());
}

/// Which columns are taken out where they are told by their place.
std::vector<bool> taken_by_place(const CsvText& text, const std::string& asked,
                                 const std::vector<std::size_t>& places, std::size_t width, bool header,
                                 const CsvSchema& trained) {
  std::vector<Reading> readings = readings_of(places, width, trained);
  if (readings.size() > 1) drop_denied(readings, text, width, header, trained);
  if (readings.empty()) return std::vector<bool>(width, false);  // the count is told when it is read
  for (const Reading& reading : readings) {
    if (reading.features == readings.front().features) continue;
    const std::size_t all = trained.columns.size();
    throw InputError(fmt::format(
        "--id {}: {} has {}, which are told by their place, and it is not clear whether those of "
        "--id "
        "are features too: give all {} columns of the training file, labels included, besides those of --id, "
        "{} in all",
        printable(asked, widest_name), text.origin, counted(static_cast<std::int64_t>(width), "column"), all,
        all + places.size()));
  }
  const auto count = [](const Reading& r) { return std::count(r.taken.begin(), r.taken.end(), true); };
  return std::min_element(readings.begin(), readings.end(),
                          [&](const Reading& a, const Reading& b) { return count(a) < count(b); })
      ->taken;
}

}  // namespace

IdColumns take_id_columns(CsvText& text, const std::string& asked, const CsvSchema& trained, bool header) {
  CsvReader reader(text.content, text.origin, text.delimiter);
  if (!reader.next()) throw InputError(fmt::format("{} holds no line of data", text.origin));
  const std::vector<std::string> names = names_of(reader.fields(), header);
  const std::vector<std::size_t> places = places_of(asked, names, text.origin);
  IdColumns ids;
  for (const std::size_t place : places) ids.names.push_back(names[place]);
  std::vector<bool> taken(names.size(), false);
  if (header && trained.header) {
    for (const std::size_t place : places)
      taken[place] =
          std::find(trained.columns.begin(), trained.columns.end(), names[place]) == trained.columns.end();
  } else {
    taken = taken_by_place(text, asked, places, names.size(), header, trained);
  }
  const bool any_taken = std::find(taken.begin(), taken.end(), true) != taken.end();
  std::string rest;
  bool head = header;
  do {
    const std::vector<std::string_view>& fields = reader.fields();
    if (fields.size() != names.size())
      throw InputError(fmt::format("{} line {} has {} fields, but the first line has {}", text.origin,
                                   reader.line(), fields.size(), names.size()));
    if (!head)
      for (const std::size_t place : places) ids.values.emplace_back(fields[place]);
    std::ptrdiff_t lines = 0;  // that a field which is taken out spans
    for (std::size_t i = 0; i < fields.size(); ++i)
      if (taken[i]) lines += std::count(fields[i].begin(), fields[i].end(), '\n');
    bool first = true;
    for (std::size_t i = 0; any_taken && i < fields.size(); ++i) {
      if (taken[i]) continue;
      // Blanks around a number do not count: the lines go there, so that those below keep their numbers.
      std::string field(fields[i]);
      if (first && !head) field += std::string(static_cast<std::size_t>(lines), '\n');
      rest += (first ? "" : ",") + csv_field(field);
      first = false;
    }
    if (any_taken) rest += '\n';
    head = false;
  } while (reader.next());
  if (any_taken) {
    text.content = std::move(rest);
    text.delimiter = ',';
  }
  return ids;
}

}  // namespace lockstep
