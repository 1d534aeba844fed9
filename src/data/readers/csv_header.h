#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/readers/csv_schema.h"

namespace lockstep {

/// The first record of a file, and which of its columns are labels or left out if it is no header.
struct FirstLine {
  const std::vector<std::string_view>& fields;
  std::int64_t line = 1;
  std::vector<std::int64_t> labels;
  std::vector<std::int64_t> dropped;
};

/// Whether nothing but its content tells that the first line is a header. It is one where no feature field is
/// a number, and where it counts the columns from 0, as pandas names them, and the other lines show that it
/// is no sample. It is data where all feature fields are numbers and nothing speaks for a header. What cannot
/// be told apart is an InputError that names data.header. Reads the rest of the file where the first line
/// alone does not say it.
bool first_line_is_header(const CsvSource& source, const FirstLine& first, LabelUse use);

/// Whether fields in order count the columns from 0: "0", "1", "2".
bool counts_columns(const std::vector<std::string_view>& fields);

}  // namespace lockstep
