#pragma once

#include <string>
#include <vector>

#include "data/readers/csv.h"

namespace lockstep {

/// Columns of a CSV input that are carried along into the rows of its predictions, as they stand.
struct IdColumns {
  std::vector<std::string> names;
  std::vector<std::string> values;  ///< (rows, names)
  bool empty() const { return names.empty(); }
};

/// Reads the columns `asked` ("customer,day": names, or 0-based numbers, comma separated) of the text. Those
/// that the training file did not have are taken out of it, so that it has the training file's columns again.
/// `header`: whether the first line of this text is one, whatever the training file has. Where columns are
/// told by their place, the counts and the content say which of `asked` are the training file's; InputError
/// where they leave it open which columns are the features. A line keeps its number. Throws ConfigError for a
/// column that is not there or named twice.
IdColumns take_id_columns(CsvText& text, const std::string& asked, const CsvSchema& trained, bool header);

}  // namespace lockstep
