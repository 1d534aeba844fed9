#pragma once

#include <string>
#include <vector>

#include "data/memory_dataset.h"
#include "data/readers/csv_schema.h"

namespace lockstep {

struct CsvContent {
  MemoryContent content;
  CsvSchema schema;                   ///< of the training file
  std::vector<std::string> unused;    ///< columns of this file that the run does not know
  bool header = false;                ///< the first line of this file is one
  std::vector<std::string> warnings;  ///< of a training file: columns that look like an index
};

/// Reads samples from RFC 4180 text, plain or gzip, with a UTF-8 mark, LF, CRLF or CR line ends, quoted
/// fields and blank lines at the end; blanks around unquoted fields do not count. All features are numbers;
/// columns of data.drop are passed over.
///
/// The first line is a header where data.header says so, or data.label or data.drop gives a name; else its
/// content decides (first_line_is_header()). A file read with `trained` has a header exactly where the
/// training file has one, unless data.header says otherwise, and its columns are found by name.
///
/// Labels of classes are whole numbers from 0 ("2" or "2.0"), or words throughout: words are numbered in byte
/// order of the training file's, and a word that is not among them is refused elsewhere. Targets are numbers,
/// as they stand. Numbers too small for float32 become 0.
///
/// Errors are InputErrors with file, line, column and the offending text: another number of fields, an empty
/// field, what is not a number, NaN and infinity, numbers beyond float32, broken quotes. What contradicts the
/// config (unknown columns with the nearest known, a shape that does not fit) is a ConfigError.
CsvContent load_csv(const std::string& path, const std::string& key, const CsvOptions& options);

}  // namespace lockstep
