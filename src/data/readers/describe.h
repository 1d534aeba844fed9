#pragma once

#include <string>

namespace lockstep {

/// What a data file holds, in a few lines for people: `inspect` on an IDX or CSV file, plain or gzip. The
/// kind is taken from the content. InputError where the file is neither, or broken.
std::string describe_data_file(const std::string& path);

/// Whether the content, unpacked, begins as an IDX file does (00 00, a known type, 1 to 8 dimensions).
/// InputError where the file cannot be read.
bool is_idx_file(const std::string& path);

}  // namespace lockstep
