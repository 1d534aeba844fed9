#include "trainer/evaluate/id_columns.h"

#include <algorithm>
#include <fmt/format.h>
#include <string_view>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "trainer/data/csv_reader.h"
#include "trainer/evaluate/csv_field.h"

namespace lockstep {
namespace {

constexpr std::size_t widest_name = 40;

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
        throw ConfigError(fmt::format(
            "--id: {} has no column '{}'{}", origin, printable(word, widest_name),
            near ? fmt::format("; did you mean '{}'?", printable(*near, widest_name))
                 : fmt::format("; give names of its {} columns, or numbers from 0 on", names.size())));
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

}  // namespace

IdColumns take_id_columns(CsvText& text, const std::string& asked, const CsvSchema& trained) {
  CsvReader reader(text.content, text.origin, text.delimiter);
  if (!reader.next()) throw InputError(fmt::format("{} holds no line of data", text.origin));
  const std::vector<std::string> names = names_of(reader.fields(), trained.header);
  const std::vector<std::size_t> places = places_of(asked, names, text.origin);
  const auto is_trained = [&](std::size_t place) {
    return trained.header ? std::find(trained.columns.begin(), trained.columns.end(), names[place]) !=
                                trained.columns.end()
                          : names.size() <= trained.columns.size();
  };
  std::vector<bool> taken(names.size(), false);
  IdColumns ids;
  for (const std::size_t place : places) {
    ids.names.push_back(names[place]);
    taken[place] = !is_trained(place);
  }
  const bool any_taken = std::find(taken.begin(), taken.end(), true) != taken.end();
  std::string rest;
  bool head = trained.header;
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
