#include "data/readers/shard_names.h"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <glob.h>
#include <set>
#include <system_error>

#include "core/error.h"
#include "core/name_pattern.h"

namespace lockstep {
namespace {

bool is_pattern(const std::string& text) {
  return text.find_first_of("*?[") != std::string::npos;
}

std::vector<std::string> files_of(const std::string& pattern, const std::string& key) {
  glob_t found{};
  const int code = ::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
  std::vector<std::string> files;
  for (std::size_t i = 0; code == 0 && i < found.gl_pathc; ++i) files.emplace_back(found.gl_pathv[i]);
  ::globfree(&found);
  if (code == GLOB_NOSPACE)
    throw InputError(fmt::format("{}: there is no memory for the names of '{}'", key, pattern));
  if (files.empty()) throw InputError(fmt::format("{}: no file matches '{}'", key, pattern));
  // By bytes, whatever the locale: the order of the files is part of what decides bits.
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

bool names_shards(const std::string& value) {
  std::error_code ignored;
  return (is_pattern(value) || value.find(',') != std::string::npos) &&
         !std::filesystem::exists(value, ignored);
}

std::vector<std::string> shard_names(const std::string& value, const std::string& key) {
  const std::vector<std::string> parts = split_patterns(value);
  if (parts.empty())
    throw ConfigError(
        fmt::format("{} = {} has a part without a name: name files or patterns, separated by "
                    "commas",
                    key, value));
  std::vector<std::string> files;
  for (const std::string& part : parts) {
    std::error_code ignored;
    if (!is_pattern(part) || std::filesystem::exists(part, ignored)) {
      files.push_back(part);
      continue;
    }
    for (std::string& file : files_of(part, key)) files.push_back(std::move(file));
  }
  std::set<std::string> seen;
  for (const std::string& file : files)
    if (!seen.insert(file).second)
      throw InputError(fmt::format("{}: '{}' is named twice: its samples would count twice", key, file));
  return files;
}

}  // namespace lockstep
