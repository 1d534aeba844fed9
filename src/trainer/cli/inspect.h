#pragma once

#include <string>

namespace lockstep {

/// What `lockstep inspect` prints, with a newline at the end:
///   a weight file: every tensor with dtype, shape and bytes, the totals, the metadata;
///   a run directory: the config, the checkpoints, each whole or why not, and the files at the end of the
///   run; a checkpoint directory: what its manifest says, and its tensors; an IDX file, plain or gzip: type
///   and extents; a CSV file: rows and columns.
/// Throws InputError for a path that is missing or none of these. One rank.
std::string inspect_path(const std::string& path);

}  // namespace lockstep
