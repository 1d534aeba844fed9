#pragma once

#include <string>
#include <vector>

namespace lockstep {

/// Whether the value of a key such as data.train names a set of files instead of one: it has *, ? or [, or a
/// comma, and no file has just this name.
bool names_shards(const std::string& value);

/// The files that such a value names: patterns or names, separated by commas; the files of one pattern in the
/// order of the bytes of their names, and the patterns in the order in which they stand. ConfigError: an
/// empty part. InputError: a pattern that no file matches, a file named twice. `key` for messages.
std::vector<std::string> shard_names(const std::string& value, const std::string& key);

}  // namespace lockstep
