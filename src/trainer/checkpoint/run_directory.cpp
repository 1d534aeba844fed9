#include "trainer/checkpoint/run_directory.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <string_view>
#include <system_error>
#include <unistd.h>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/config/paths.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

constexpr std::array run_files = {
    "config.resolved.ini", "metrics.jsonl",    "preprocessing.json", "data.json",
    "model.safetensors",   "best.safetensors", "test.json"};
constexpr std::array lease_files = {"lease.json"};
constexpr std::array checkpoint_files = {"manifest.json"};

bool digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// prefix, digits, suffix.
bool numbered(std::string_view name, std::string_view prefix, std::string_view suffix = "") {
  return name.size() > prefix.size() + suffix.size() && name.starts_with(prefix) && name.ends_with(suffix) &&
         digits(name.substr(prefix.size(), name.size() - prefix.size() - suffix.size()));
}

// "<name>.tmp.<pid>.<n>": what an atomic write that was killed leaves behind.
template <std::size_t N>
bool is_one_of(std::string_view name, const std::array<const char*, N>& known) {
  return std::any_of(known.begin(), known.end(), [&](std::string_view k) {
    if (name == k) return true;
    const std::string prefix = std::string(k) + ".tmp.";
    const std::size_t dot = name.rfind('.');
    return name.starts_with(prefix) && dot > prefix.size() && digits(name.substr(dot + 1)) &&
           digits(name.substr(prefix.size(), dot - prefix.size()));
  });
}

bool is_run_file(std::string_view name) {
  // A lease itself belongs to a job, not to the run.
  return is_one_of(name, run_files) || (name != lease_files[0] && is_one_of(name, lease_files)) ||
         numbered(name, "timeline.rank", ".jsonl") || numbered(name, "log.rank", ".txt") ||
         name == "hang.report.txt" || name == "terminated.report.txt";
}

bool is_checkpoint_directory(std::string_view name) {
  for (const std::string_view hidden : {".saving-", ".removing-"}) {
    if (!name.starts_with(hidden)) continue;
    name.remove_prefix(hidden.size());
    // The number of the attempt.
    const std::size_t dot = name.rfind('.');
    if (dot != name.npos && digits(name.substr(dot + 1))) name = name.substr(0, dot);
  }
  return numbered(name, "step-") || numbered(name, "best-");
}

std::vector<fs::path> entries_of(const fs::path& directory) {
  std::vector<fs::path> entries;
  std::error_code error;
  fs::directory_iterator it(directory, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) entries.push_back(it->path());
  if (error && error != std::errc::no_such_file_or_directory) {
    throw InputError(fmt::format("cannot list the directory '{}': {}; check its permissions",
                                 directory.string(), error.message()));
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

/// Whether something of that name is there. What may not be looked at is not taken for missing.
bool is_there(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::none)
    throw InputError(
        fmt::format("'{}' may not be looked at: {}; check the permissions of the folders on the way to it",
                    path, error.message()));
  return fs::exists(status);
}

void remove_entry(const fs::path& entry) {
  std::error_code error;
  fs::remove(entry, error);
  if (error && error != std::errc::directory_not_empty) {
    throw InputError(fmt::format("cannot remove '{}': {}; remove it by hand or name another run.dir",
                                 entry.string(), error.message()));
  }
}

bool is_plain_directory(const fs::path& entry) {
  std::error_code ignored;
  return fs::symlink_status(entry, ignored).type() == fs::file_type::directory;
}

// A directory goes when nothing foreign is left in it.
void remove_checkpoint(const fs::path& directory) {
  for (const fs::path& file : entries_of(directory)) {
    const std::string name = file.filename().string();
    if (is_one_of(name, checkpoint_files) || is_part_name(name)) remove_entry(file);
  }
  remove_entry(directory);
}

void create_with_parents(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return;
  if (!error) error = std::make_error_code(std::errc::not_a_directory);
  throw InputError(fmt::format("cannot create the run directory '{}': {}; name another run.dir", path,
                               error == std::errc::not_a_directory || error == std::errc::file_exists
                                   ? "a file of that name is in the way"
                                   : error.message()));
}

// Permission bits say little (root passes them, a file system may be read-only), so it is tried.
void check_writable(const std::string& path) {
  const std::string probe = fmt::format("{}/.lockstep-probe-{}", path, ::getpid());
  const FileDescriptor fd(::open(probe.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) {
    const int error = errno;
    throw InputError(fmt::format("cannot write to the run directory '{}': {}; name another run.dir", path,
                                 std::generic_category().message(error)));
  }
  ::unlink(probe.c_str());
}

// What is in the way of a file at the end of a run would cost the run.
void refuse_directories_in_the_way(const std::string& path) {
  for (const char* name : run_files) {
    std::error_code ignored;
    if (fs::is_directory(path + "/" + name, ignored))
      throw InputError(
          fmt::format("'{}/{}' is a directory, and the run will write a file of that name; remove it or name "
                      "another run.dir",
                      path, name));
  }
}

std::string without_trailing_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

RunDirectory::RunDirectory(std::string path) : path_(without_trailing_slashes(std::move(path))) {
  if (path_.empty()) throw ConfigError("run.dir is empty; name a directory");
  if (path_.find('\0') != std::string::npos) throw ConfigError("run.dir holds a NUL byte; check the path");
}

bool RunDirectory::holds_run() const {
  std::error_code ignored;
  if (!is_there(path_) || !fs::is_directory(path_, ignored)) return false;
  // What only describes the data may be left of a start that failed before it wrote its config.
  if (std::any_of(run_files.begin(), run_files.end(), [&](std::string_view name) {
        return name != "preprocessing.json" && name != "data.json" &&
               is_there(path_ + "/" + std::string(name));
      })) {
    return true;
  }
  // A generation without checkpoints is what --overwrite leaves.
  for (const fs::path& generation : entries_of(checkpoints())) {
    if (!numbered(generation.filename().string(), "gen-") || !fs::is_directory(generation, ignored)) continue;
    for (const fs::path& entry : entries_of(generation)) {
      if (is_checkpoint_directory(entry.filename().string())) return true;
    }
  }
  return false;
}

void RunDirectory::remove_run() const {
  const std::vector<fs::path> generations = entries_of(checkpoints());
  fs::path highest;
  for (const fs::path& generation : generations) {
    if (!numbered(generation.filename().string(), "gen-") || !is_plain_directory(generation)) continue;
    for (const fs::path& entry : entries_of(generation)) {
      if (is_checkpoint_directory(entry.filename().string()) && is_plain_directory(entry))
        remove_checkpoint(entry);
    }
    if (!highest.empty()) remove_entry(highest);
    highest = generation;
  }
  // The config last: a removal that was cut off is still recognised as a run.
  std::vector<fs::path> files = entries_of(path_);
  std::stable_partition(files.begin(), files.end(),
                        [](const fs::path& f) { return f.filename() != run_files[0]; });
  for (const fs::path& file : files) {
    if (is_run_file(file.filename().string()) && !is_plain_directory(file)) remove_entry(file);
  }
  sync_directory(path_);
}

std::string RunDirectory::read_preprocessing() const {
  constexpr const char* remedy = "put back the file that the run wrote, or train anew";
  if (!is_there(preprocessing()))
    throw InputError(
        fmt::format("'{}' does not exist, and nothing else tells how the run prepares its inputs; {}",
                    preprocessing(), remedy));
  try {
    return read_file(preprocessing());
  } catch (const InputError& e) {
    throw InputError(fmt::format("{}; {}", e.what(), remedy));
  }
}

void RunDirectory::remove_temporaries() const {
  std::error_code ignored;
  for (const fs::path& file : entries_of(path_)) {
    const std::string name = file.filename().string();
    if (is_run_file(name) && name.find(".tmp.") != name.npos) fs::remove(file, ignored);
  }
}

RunDirectory RunDirectory::prepare(const std::string& path, RunDirectoryMode mode,
                                   const std::function<void()>& before_change) {
  RunDirectory run(path);
  if (mode == RunDirectoryMode::resume) {
    if (!is_there(run.path()) || !is_there(run.config())) {
      throw ConfigError(
          fmt::format("cannot resume: '{}' holds no run (there is no config.resolved.ini); check run.dir, "
                      "or leave --resume out to start one",
                      run.path()));
    }
    check_writable(run.path());
    if (before_change) before_change();
    return run;
  }
  create_with_parents(run.path());
  if (mode == RunDirectoryMode::fresh && run.holds_run()) {
    throw ConfigError(
        fmt::format("'{}' already holds a run; --resume goes on with it, --overwrite deletes it and "
                    "starts anew, or name another run.dir",
                    run.path()));
  }
  refuse_directories_in_the_way(run.path());
  check_writable(run.path());
  if (before_change) before_change();
  if (mode == RunDirectoryMode::overwrite && run.holds_run()) run.remove_run();
  return run;
}

RunDirectory RunDirectory::open(const std::string& path) {
  RunDirectory run(path);
  std::error_code error;
  const bool there = is_there(run.path());
  if (!there || !fs::is_directory(run.path(), error)) {
    throw InputError(fmt::format("'{}' is {}; name the directory of a run", run.path(),
                                 there ? "not a directory" : "missing"));
  }
  if (!is_there(run.config())) {
    throw InputError(fmt::format(
        "'{}' holds no run (there is no config.resolved.ini); name the directory of a run", run.path()));
  }
  return run;
}

std::string meant_run_directory(const CommandLine& line) {
  const RunDirectory run(std::string(trim(given_values(line).at("run.dir").value)));
  std::error_code error;
  const fs::path path = fs::absolute(run.path(), error);
  if (error)
    throw ConfigError(
        fmt::format("run.dir = {}: the working folder cannot be told: {}; give an absolute path", run.path(),
                    error.message()));
  return path.string();
}

}  // namespace lockstep
