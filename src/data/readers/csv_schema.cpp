#include "data/readers/csv_schema.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <set>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "core/text.h"
#include "core/utf8.h"
#include "data/readers/csv_header.h"
#include "data/readers/csv_survey.h"
#include "data/readers/csv_text.h"

namespace lockstep {

namespace {

/// The words of a key that lists columns.
std::vector<std::string_view> columns_in(const std::string& list) {
  std::vector<std::string_view> words;
  if (trim(list).empty()) return words;
  for (const std::string_view word : split(list, ',')) words.push_back(trim(word));
  return words;
}

bool names_columns(const std::vector<std::string_view>& words) {
  return std::any_of(words.begin(), words.end(), [](std::string_view w) { return !is_column_number(w); });
}

/// Learns the schema of a training file from its first record.
class Learner {
 public:
  Learner(const CsvSource& source, const std::vector<std::string_view>& first, std::int64_t line,
          const CsvOptions& options)
      : source_(source),
        first_(first),
        line_(line),
        options_(options),
        labels_(columns_in(options.label)),
        dropped_(columns_in(options.drop)) {}

  CsvSchema learn() {
    refuse_other_than_utf8();
    // Names may themselves be numbers, so columns are found in both readings before the reading is chosen.
    for (std::size_t i = 0; i < first_.size(); ++i) schema_.columns.push_back(fmt::format("{}", i));
    if (is_header()) {
      schema_.header = true;
      schema_.columns.assign(first_.begin(), first_.end());
    }
    find_columns();
    if (schema_.header) refuse_equal_names();
    return std::move(schema_);
  }

 private:
  /// Names are stored with the run, and are found again in other files only if those are encoded alike.
  void refuse_other_than_utf8() const {
    for (std::size_t i = 0; i < first_.size(); ++i) {
      if (is_utf8(first_[i])) continue;
      throw InputError(fmt::format(
          "{} line {}, field number {} (from 0): the name is not UTF-8 text: save the file as UTF-8",
          source_.origin, line_, i));
    }
  }

  /// Other files may have their columns in another order: by its name one must be found alone.
  void refuse_equal_names() const {
    std::map<std::string_view, std::size_t> places;
    for (std::size_t i = 0; i < schema_.columns.size(); ++i) {
      if (holds_column(schema_.dropped_columns, i)) continue;
      const auto [earlier, is_new] = places.emplace(schema_.columns[i], i);
      if (is_new) continue;
      throw InputError(fmt::format(
          "{} line {}: columns number {} and {} (from 0) are both named {}, so they cannot be told apart in "
          "other files: rename one, or leave it out by its number with data.drop",
          source_.origin, line_, earlier->second, i, in_quotes(schema_.columns[i])));
    }
  }

  bool is_header() {
    for (const auto& [key, words] : {std::pair("data.label", &labels_), std::pair("data.drop", &dropped_)}) {
      if (!names_columns(*words)) continue;
      if (options_.header == "no")
        throw ConfigError(fmt::format(
            "{} names columns, but data.header = no: give their numbers, which count from 0", key));
      return true;
    }
    if (options_.header != "auto") return options_.header == "yes";
    find_columns();
    return first_line_is_header(
        source_, FirstLine{first_, line_, schema_.label_columns, schema_.dropped_columns}, options_.use);
  }

  void find_columns() {
    schema_.label_columns = find(labels_, "data.label");
    schema_.dropped_columns = find(dropped_, "data.drop");
    if (labels_.empty()) schema_.label_columns = {static_cast<std::int64_t>(schema_.columns.size()) - 1};
    for (const std::int64_t column : schema_.dropped_columns) {
      if (!holds_column(schema_.label_columns, static_cast<std::size_t>(column))) continue;
      throw ConfigError(fmt::format(
          "data.drop leaves out {}, which is the label{}", named(column),
          labels_.empty() ? ": the last column is, as long as data.label names no other" : " column too"));
    }
    const std::size_t labels = schema_.label_columns.size();
    if (options_.use == LabelUse::classes && labels != 1) {
      throw ConfigError(
          fmt::format("data.label names {}, but classes have one label; several are for loss.name = mse",
                      counted(static_cast<std::int64_t>(labels), "column")));
    }
    const std::size_t apart = labels + schema_.dropped_columns.size();
    if (apart < schema_.columns.size()) return;
    refuse_lone_first_line(source_);
    throw InputError(fmt::format(
        "{} has {} and needs at least one besides {} of labels{}: fields are separated by {}{}",
        source_.origin, counted(static_cast<std::int64_t>(schema_.columns.size()), "column"), labels,
        schema_.dropped_columns.empty() ? "" : fmt::format(" and {} left out", apart - labels),
        delimiter_name(source_.delimiter), delimiter_hint(source_, line_)));
  }

  std::string named(std::int64_t column) const {
    const std::string& name = schema_.columns[static_cast<std::size_t>(column)];
    return schema_.header && !name.empty() ? "column " + in_quotes(name)
                                           : fmt::format("column number {}", column);
  }

  std::vector<std::int64_t> find(const std::vector<std::string_view>& words, const char* key) const {
    std::vector<std::int64_t> found;
    for (const std::string_view word : words) {
      const std::int64_t column = find(word, key);
      if (holds_column(found, static_cast<std::size_t>(column)))
        throw ConfigError(fmt::format("{} names the column {} twice", key, in_quotes(word)));
      found.push_back(column);
    }
    return found;
  }

  std::int64_t find(std::string_view word, const char* key) const {
    const std::vector<std::string>& columns = schema_.columns;
    const auto count = static_cast<std::int64_t>(columns.size());
    const auto at = std::find(columns.begin(), columns.end(), word);
    if (at != columns.end()) {
      if (std::find(at + 1, columns.end(), word) != columns.end())
        throw InputError(fmt::format("{} has two columns named {}: give {} as a number", source_.origin,
                                     in_quotes(word), key));
      return at - columns.begin();
    }
    // As pandas calls a column without a name, which its number cannot where names are numbers.
    for (std::int64_t i = 0; i < count; ++i)
      if (columns[static_cast<std::size_t>(i)].empty() && word == fmt::format("Unnamed: {}", i)) return i;
    refuse_lone_first_line(source_);
    if (is_column_number(word)) {
      const auto number = parse_int64(word);
      if (number && *number >= 0 && *number < count) return *number;
      throw ConfigError(fmt::format("{} = {} is no column of {}, which has columns 0 to {}", key,
                                    word.substr(0, 40), source_.origin, count - 1));
    }
    const auto near = nearest_word(word, columns);
    const std::string hint = delimiter_hint(source_, line_);
    throw ConfigError(fmt::format("{} names the column {}, which the header of {} does not have{}{}", key,
                                  in_quotes(word), source_.origin,
                                  near && hint.empty() ? fmt::format("; did you mean {}?", in_quotes(*near))
                                                       : ": it has " + list_in_quotes(columns),
                                  hint));
  }

  const CsvSource& source_;
  const std::vector<std::string_view>& first_;
  std::int64_t line_;
  const CsvOptions& options_;
  std::vector<std::string_view> labels_, dropped_;  // as the keys name them
  CsvSchema schema_;
};

/// Finds the training file's columns in another file.
class Matcher {
 public:
  Matcher(const CsvSource& source, const std::vector<std::string_view>& first, std::int64_t line,
          const CsvOptions& options)
      : source_(source), first_(first), line_(line), options_(options), trained_(*options.trained) {}

  CsvColumns match() {
    found_.header = options_.header == "auto" ? trained_.header : options_.header == "yes";
    if (found_.header) {
      found_.names.assign(first_.begin(), first_.end());
    } else {
      for (std::size_t i = 0; i < first_.size(); ++i) found_.names.push_back(fmt::format("{}", i));
    }
    if (found_.header && trained_.header && found_.names != trained_.columns) {
      by_name();
    } else {
      if (!found_.header && options_.header == "auto") refuse_header();
      by_place();
    }
    return std::move(found_);
  }

 private:
  bool wanted(std::size_t column) const {
    return !holds_column(trained_.dropped_columns, column) &&
           (options_.use != LabelUse::none || !holds_column(trained_.label_columns, column));
  }

  void by_name() {
    std::vector<std::string> missing;
    const auto find = [&](std::size_t column) {
      const std::string& name = trained_.columns[column];
      const auto at = std::find(found_.names.begin(), found_.names.end(), name);
      if (at == found_.names.end()) {
        missing.push_back(name);
        return std::size_t{0};
      }
      const auto& own = trained_.columns;
      if (std::find(at + 1, found_.names.end(), name) != found_.names.end() ||
          std::count(own.begin(), own.end(), name) > 1)
        throw InputError(
            fmt::format("{} line {}: several columns are named {}, so they cannot be told apart by name: "
                        "rename them, or give them in the order of the training file",
                        source_.origin, line_, in_quotes(name)));
      return static_cast<std::size_t>(at - found_.names.begin());
    };
    for (std::size_t i = 0; i < trained_.columns.size(); ++i) {
      if (wanted(i) && !holds_column(trained_.label_columns, i)) found_.features.push_back(find(i));
    }
    if (options_.use != LabelUse::none) {
      for (const std::int64_t label : trained_.label_columns)
        found_.labels.push_back(find(static_cast<std::size_t>(label)));
    }
    if (!missing.empty()) refuse_missing(missing);
    const std::set<std::string> known(trained_.columns.begin(), trained_.columns.end());
    for (const std::string& name : found_.names) {
      if (known.count(name) == 0) found_.unused.push_back(name);
    }
  }

  [[noreturn]] void refuse_missing(const std::vector<std::string>& missing) const {
    if (std::all_of(first_.begin(), first_.end(), number_like)) {
      throw InputError(fmt::format("{} has no header line, but the training file has one", source_.origin));
    }
    refuse_lone_first_line(source_);
    const std::string hint = delimiter_hint(source_, line_);
    const auto near = nearest_word(missing.front(), found_.names);
    throw InputError(fmt::format("{} line {} has no column {}, which the training file has{}", source_.origin,
                                 line_, list_in_quotes(missing),
                                 !hint.empty() ? hint
                                 : near        ? fmt::format("; did you mean {}?", in_quotes(*near))
                                               : ": it has " + list_in_quotes(found_.names)));
  }

  /// Without names columns are told by their place: all of them, or without those that are not read.
  void by_place() {
    const std::size_t all = trained_.columns.size();
    const std::size_t labels = trained_.label_columns.size();
    const std::size_t dropped = trained_.dropped_columns.size();
    const std::size_t here = first_.size();
    const bool without_labels =
        options_.use == LabelUse::none && (here == all - labels || here == all - labels - dropped);
    const bool without_dropped = without_labels && dropped > 0 && here == all - labels - dropped;
    if (here != all && !without_labels) {
      refuse_lone_first_line(source_);
      throw InputError(fmt::format("{} line {} has {}, but the training file has {}, {} of them labels{}{}",
                                   source_.origin, line_, counted(static_cast<std::int64_t>(here), "field"),
                                   counted(static_cast<std::int64_t>(all), "column"), labels,
                                   dropped == 0 ? "" : fmt::format(" and {} left out by data.drop", dropped),
                                   delimiter_hint(source_, line_)));
    }
    std::size_t place = 0;
    std::vector<std::size_t> places(all);
    for (std::size_t i = 0; i < all; ++i) {
      const bool absent = (here != all && holds_column(trained_.label_columns, i)) ||
                          (without_dropped && holds_column(trained_.dropped_columns, i));
      places[i] = place;
      place += absent ? 0 : 1;
    }
    for (std::size_t i = 0; i < all; ++i) {
      if (wanted(i) && !holds_column(trained_.label_columns, i)) found_.features.push_back(places[i]);
    }
    if (options_.use == LabelUse::none) return;
    for (const std::int64_t label : trained_.label_columns)
      found_.labels.push_back(places[static_cast<std::size_t>(label)]);
  }

  /// The training file has no header: neither may this one, and a sample is not to be made of it.
  void refuse_header() const {
    const bool words = first_.size() > 1 && std::none_of(first_.begin(), first_.end(), number_like);
    // A class of the run is a label, wherever it stands.
    const bool known_label = std::any_of(first_.begin(), first_.end(), [&](std::string_view field) {
      return std::binary_search(trained_.class_names.begin(), trained_.class_names.end(), field);
    });
    if (words) {
      throw InputError(fmt::format(
          "{} line {} is a header, but the training file has none: remove it, or set data.header = yes",
          source_.origin, line_));
    }
    std::vector<std::string_view> fields = first_;
    if (!number_like(fields.back())) fields.pop_back();
    if (known_label || fields.size() < 2 || !counts_columns(fields)) return;
    throw InputError(
        fmt::format("{} line {} may be a header or a sample: its fields count the columns from 0, and the "
                    "training file has no header; say with data.header = yes or no which it is",
                    source_.origin, line_));
  }

  const CsvSource& source_;
  const std::vector<std::string_view>& first_;
  std::int64_t line_;
  const CsvOptions& options_;
  const CsvSchema& trained_;
  CsvColumns found_;
};

}  // namespace

CsvSchema learn_csv_schema(const CsvSource& source, const std::vector<std::string_view>& first,
                           std::int64_t line, const CsvOptions& options) {
  return Learner(source, first, line, options).learn();
}

CsvColumns columns_of(const CsvSchema& schema) {
  CsvColumns columns;
  columns.header = schema.header;
  columns.names = schema.columns;
  for (std::size_t i = 0; i < schema.columns.size(); ++i) {
    if (!holds_column(schema.label_columns, i) && !holds_column(schema.dropped_columns, i))
      columns.features.push_back(i);
  }
  for (const std::int64_t label : schema.label_columns)
    columns.labels.push_back(static_cast<std::size_t>(label));
  return columns;
}

CsvColumns match_csv_columns(const CsvSource& source, const std::vector<std::string_view>& first,
                             std::int64_t line, const CsvOptions& options) {
  return Matcher(source, first, line, options).match();
}

std::string column_text(const CsvColumns& columns, std::size_t column) {
  return columns.header && !columns.names[column].empty()
             ? fmt::format("column {}", in_quotes(columns.names[column]))
             : fmt::format("column number {} (from 0)", column);
}

}  // namespace lockstep
