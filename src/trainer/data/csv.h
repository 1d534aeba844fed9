#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/shape.h"
#include "trainer/data/idx.h"
#include "trainer/data/memory_dataset.h"

namespace lockstep {

/// What a CSV file of samples is like: learnt from the training file, demanded of every other file, stored
/// with the run.
struct CsvSchema {
  bool header = false;
  std::vector<std::string> columns;         ///< all names, in order; "0", "1", … without a header
  std::vector<std::int64_t> label_columns;  ///< in the order of data.label
  std::vector<std::string> class_names;  ///< where labels are words: sorted, class number = place; else empty
  friend bool operator==(const CsvSchema&, const CsvSchema&) = default;
};

/// The content of a CSV file that was read already.
struct CsvText {
  std::string content;
  std::string origin;  ///< what names it in messages
};

struct CsvOptions {
  LabelUse use = LabelUse::classes;  ///< none: label columns may be missing and are passed over
  std::string label;  ///< data.label: names or 0-based numbers, comma separated; empty: the last column
  std::optional<Shape> shape;          ///< data.shape: reshapes the features
  const CsvSchema* trained = nullptr;  ///< of the training file; null: this is the training file
  const CsvText* text = nullptr;       ///< in place of what the path holds; null: the file is read
};

struct CsvContent {
  MemoryContent content;
  CsvSchema schema;
};

/// Reads samples from RFC 4180 text, plain or gzip, with a UTF-8 mark, LF, CRLF or CR line ends, quoted
/// fields and blank lines at the end; blanks around unquoted fields do not count. All features are numbers.
///
/// The first line is a header where data.label gives a name, or where none of its feature fields is a number;
/// it is data where all of them are; a mixture is refused, since either reading would lose something. A file
/// read with `trained` has a header exactly where the training file has one, with the same names in the same
/// order.
///
/// Labels of classes are integers from 0, or words throughout: words are numbered in byte order of the
/// training file's, and a word that is not among them is refused elsewhere. Targets are numbers, as they
/// stand.
///
/// Errors are InputErrors with file, line, column and the offending text: another number of fields, an empty
/// field, what is not a number, NaN and infinity, numbers beyond float32, broken quotes. What contradicts the
/// config (unknown label column with the nearest known, a shape that does not fit) is a ConfigError.
CsvContent load_csv(const std::string& path, const std::string& key, const CsvOptions& options);

}  // namespace lockstep
