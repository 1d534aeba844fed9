#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "data/readers/csv_schema.h"

namespace lockstep {

// Looks over a whole file once something in it is refused, so that a message names what is unlike all others
// and not what comes first.

/// Throws the InputError for record `line`, which has `fields` fields where the first record has `expected`:
/// it names the line whose number of fields the others do not share, be it the first.
[[noreturn]] void refuse_field_count(const CsvSource& source, std::int64_t line, std::size_t fields,
                                     std::size_t expected);

/// Throws such an error where the first record is one field and the next has several: a comment or a title.
/// Does nothing where another separator makes a table of both.
void refuse_lone_first_line(const CsvSource& source);

/// The end of a message on a first line of one field: which separator makes a table of the file, or "".
std::string delimiter_hint(const CsvSource& source, std::int64_t line);

/// The end of a message on a field of `column` that is no number: what the other fields of the column are,
/// and what to do. "" where there is nothing to compare with.
std::string other_fields(const CsvSource& source, const CsvColumns& columns, std::size_t column,
                         const CsvOptions& options);

/// The end of a message on an empty label: what to do where the column is empty throughout, else "".
std::string empty_column(const CsvSource& source, const CsvColumns& columns, std::size_t column,
                         const CsvOptions& options);

}  // namespace lockstep
