#include "trainer/checkpoint/checkpoint_directories.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "trainer/checkpoint/checkpoint_manifest.h"

namespace lockstep {

namespace fs = std::filesystem;

std::string generation_name(std::int64_t generation) {
  return fmt::format("{}{:06}", generation_prefix, generation);
}
std::string step_name(const char* prefix, std::int64_t step) {
  return fmt::format("{}{:09}", prefix, step);
}

std::optional<std::int64_t> number_in(const std::string& name, const char* prefix) {
  const std::string p = prefix;
  if (!name.starts_with(p)) return std::nullopt;
  const std::string digits = name.substr(p.size());
  std::int64_t n = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
  if (error != std::errc() || end != digits.data() + digits.size() || n < 0) return std::nullopt;
  const std::string canonical = p == generation_prefix ? generation_name(n) : step_name(prefix, n);
  return canonical == name ? std::optional(n) : std::nullopt;
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator it(directory, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error))
    names.push_back(it->path().filename());
  if (error && error != std::errc::no_such_file_or_directory) {
    throw InputError(fmt::format("cannot list the directory '{}': {}", directory, error.message()));
  }
  return names;
}

bool is_plain_directory(const fs::path& path) {
  std::error_code ignored;
  return fs::symlink_status(path, ignored).type() == fs::file_type::directory;
}

bool is_hidden_name(const std::string& name) {
  for (const char* prefix : {saving_prefix, removing_prefix}) {
    if (!name.starts_with(prefix)) continue;
    std::string rest = name.substr(std::string(prefix).size());
    const auto digits = [](const std::string& text) {
      return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
    };
    if (const std::size_t dot = rest.rfind('.'); dot != rest.npos) {
      if (!digits(rest.substr(dot + 1))) return false;
      rest.resize(dot);
    }
    return number_in(rest, step_prefix) || number_in(rest, best_prefix);
  }
  return false;
}

bool is_own(const std::string& directory) {
  if (!is_plain_directory(directory)) return false;
  const std::vector<std::string> names = names_in(directory);
  return std::all_of(names.begin(), names.end(), [](const std::string& name) {
    return name == manifest_file || name.starts_with(std::string(manifest_file) + ".tmp.") ||
           is_part_name(name);
  });
}

void remove_hidden(const std::string& parent, const std::string& name) {
  const bool saving = name.starts_with(saving_prefix);
  const std::string hidden =
      parent + "/" + removing_prefix + (saving ? name.substr(std::string(saving_prefix).size()) : name);
  std::error_code error;
  if (name.starts_with(removing_prefix)) {
    fs::remove_all(parent + "/" + name, error);
  } else {
    // Also a save under way, of a job that was cut off: either that job's rename wins or this one.
    fs::remove_all(hidden, error);
    fs::rename(parent + "/" + name, hidden, error);
    if (!error) fs::remove_all(hidden, error);
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw InputError(fmt::format("cannot remove '{}/{}': {}", parent, name, error.message()));
  }
}

void publish_directory(const std::string& from, const std::string& to) {
  const auto unknown = [](int error) { return error == EINVAL || error == ENOSYS || error == ENOTSUP; };
  const auto fail = [&](int error) {
    throw InputError(
        fmt::format("cannot rename '{}' to '{}': {}", from, to, std::generic_category().message(error)));
  };
  std::error_code ignored;
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) {
    sync_directory(parent_directory(to));
    return;
  }
  if (errno != EEXIST && !unknown(errno)) fail(errno);
  if (!fs::exists(to, ignored)) {
    // A file system without RENAME_NOREPLACE.
    rename_durably(from, to);
    return;
  }
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) {
    sync_directory(parent_directory(to));
  } else if (!unknown(errno)) {
    fail(errno);
  }
  fs::remove_all(from, ignored);  // the older one after an exchange, else the newer
}

}  // namespace lockstep
