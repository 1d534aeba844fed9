#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/shape.h"
#include "data/readers/idx.h"

namespace lockstep {

/// What a CSV file of samples is like: learnt from the training file, demanded of every other file, stored
/// with the run.
struct CsvSchema {
  bool header = false;
  std::vector<std::string> columns;           ///< all names, in order; "0", "1", … without a header
  std::vector<std::int64_t> label_columns;    ///< in the order of data.label
  std::vector<std::int64_t> dropped_columns;  ///< in the order of data.drop
  std::vector<std::string> class_names;  ///< where labels are words: sorted, class number = place; else empty
  friend bool operator==(const CsvSchema&, const CsvSchema&) = default;
};

/// The content of a CSV file that was read already.
struct CsvText {
  std::string content;
  std::string origin;    ///< what names it in messages
  char delimiter = ',';  ///< of the content, whatever CsvOptions say
};

struct CsvOptions {
  LabelUse use = LabelUse::classes;  ///< none: label columns may be missing and are passed over
  std::string label;  ///< data.label: names or 0-based numbers, comma separated; empty: the last column
  std::string drop;   ///< data.drop: columns that are left out, likewise
  std::string header = "auto";         ///< data.header: auto, yes, no
  char delimiter = ',';                ///< a space: any run of spaces and tabs
  std::optional<Shape> shape;          ///< data.shape: reshapes the features
  const CsvSchema* trained = nullptr;  ///< of the training file; null: this is the training file
  const CsvText* text = nullptr;       ///< in place of what the path holds; null: the file is read
};

/// Whether a list of columns, counted from 0, names this one.
inline bool holds_column(const std::vector<std::int64_t>& columns, std::size_t column) {
  return std::find(columns.begin(), columns.end(), static_cast<std::int64_t>(column)) != columns.end();
}

/// The text of a file under the name that it has in messages. Both outlive what reads it.
struct CsvSource {
  std::string_view text;
  std::string origin;
  char delimiter = ',';
};

/// Where one file holds what the model needs.
struct CsvColumns {
  bool header = false;                ///< the first line is one
  std::vector<std::string> names;     ///< of this file's columns; "0", "1", … without a header
  std::vector<std::size_t> features;  ///< in the order of the training file
  std::vector<std::size_t> labels;    ///< in the order of data.label; empty where they are not read
  std::vector<std::string> unused;    ///< names of columns that the run does not know
};

/// The schema of a training file, without class names. `first`: the fields of its first record, of line
/// `line`. ConfigError for columns that it does not have, with the nearest that it has; InputError where it
/// cannot be told whether the first line is a header.
CsvSchema learn_csv_schema(const CsvSource& source, const std::vector<std::string_view>& first,
                           std::int64_t line, const CsvOptions& options);
/// Of the training file itself.
CsvColumns columns_of(const CsvSchema& schema);
/// Of another file, held against options.trained: columns of a file with a header are found by their names,
/// in any order; those of a file without one by their place. InputError where one is missing.
CsvColumns match_csv_columns(const CsvSource& source, const std::vector<std::string_view>& first,
                             std::int64_t line, const CsvOptions& options);

/// "column 'x'", or "column number 3 (from 0)" without a header.
std::string column_text(const CsvColumns& columns, std::size_t column);

}  // namespace lockstep
