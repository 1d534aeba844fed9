#include "model/cuda/tuning/plan_cache.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <system_error>
#include <thread>
#include <unistd.h>

#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "core/text.h"

namespace lockstep::cuda {
namespace {

namespace fs = std::filesystem;

// A file is the first line, a line an entry, "seconds TAB plan TAB key", and a line that seals what is before
// it. Version 2 will have another first line, and will not be taken for damaged.
constexpr std::string_view kind_line = "lockstep-plans ";
constexpr std::string_view first_line = "lockstep-plans 1\n";
constexpr std::string_view seal_word = "sha256 ";
constexpr std::size_t seal_bytes = seal_word.size() + 64 + 1;
constexpr std::size_t most_text = 2048;  // of a key or a plan

std::string line_of(const PlanEntry& e) {
  return fmt::format("{:.9e}\t{}\t{}\n", e.seconds, e.plan, e.key);
}

std::string seal_of(std::string_view text) {
  return fmt::format("{}{}\n", seal_word, sha256_hex(text));
}

bool is_plain(std::string_view text) {
  return !text.empty() && text.size() <= most_text && std::all_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
  });
}

std::optional<PlanEntry> entry_of(std::string_view line) {
  const std::vector<std::string_view> fields = split(line, '\t');
  if (fields.size() != 3 || !is_plain(fields[1]) || !is_plain(fields[2])) return std::nullopt;
  const auto seconds = parse_double(fields[0]);
  if (!seconds || *seconds < 0) return std::nullopt;
  return PlanEntry{std::string(fields[2]), std::string(fields[1]), *seconds};
}

std::string reason_of(int error) {
  return std::generic_category().message(error);
}

/// Keeps other writers of this host, and on most shared file systems of all hosts, away while it lives. Where
/// there is no lock to be had it goes without: what is written is whole all the same, and at worst another
/// writer's entries of this moment are lost and measured again.
class WriterLock {
 public:
  explicit WriterLock(const std::string& path)
      : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW, 0666)) {
    using namespace std::chrono_literals;
    const auto end = std::chrono::steady_clock::now() + 2s;
    while (fd_ && ::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
      // A writer needs some milliseconds; one that is stopped must not stop this job.
      if ((errno != EWOULDBLOCK && errno != EINTR) || std::chrono::steady_clock::now() > end) return;
      std::this_thread::sleep_for(5ms);
    }
  }

 private:
  FileDescriptor fd_;  // the lock goes with it; the file stays, since removing it would race
};

}  // namespace

std::string format_plan_cache(const std::vector<PlanEntry>& entries) {
  std::size_t size = first_line.size() + seal_bytes;
  std::size_t from = entries.size();
  while (from > 0 && size + line_of(entries[from - 1]).size() <= plan_cache_bytes)
    size += line_of(entries[--from]).size();
  std::string text(first_line);
  for (; from < entries.size(); ++from) text += line_of(entries[from]);
  return text + seal_of(text);
}

std::optional<std::vector<PlanEntry>> parse_plan_cache(std::string_view text) {
  std::vector<PlanEntry> entries;
  if (text.empty()) return entries;
  if (text.size() > plan_cache_bytes || text.size() < first_line.size() + seal_bytes ||
      !text.starts_with(first_line))
    return std::nullopt;
  const std::string_view body = text.substr(0, text.size() - seal_bytes);
  if (text.substr(body.size()) != seal_of(body)) return std::nullopt;
  std::string_view rest = body.substr(first_line.size());
  while (!rest.empty()) {
    const std::size_t end = rest.find('\n');
    if (end == std::string_view::npos) return std::nullopt;
    auto entry = entry_of(rest.substr(0, end));
    if (!entry) return std::nullopt;
    entries.push_back(std::move(*entry));
    rest.remove_prefix(end + 1);
  }
  return entries;
}

std::string plan_cache_path(const std::string& configured,
                            const std::function<const char*(const char*)>& environment) {
  constexpr const char* file = "plans.txt";
  if (!configured.empty()) {
    std::error_code ignored;
    const bool folder = configured.back() == '/' || fs::is_directory(configured, ignored);
    return folder ? (fs::path(configured) / file).string() : configured;
  }
  // The XDG base directory specification: relative paths do not count.
  const char* cache = environment("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') return (fs::path(cache) / "lockstep" / file).string();
  const char* home = environment("HOME");
  if (home != nullptr && home[0] == '/') return (fs::path(home) / ".cache" / "lockstep" / file).string();
  return {};
}

PlanCache::PlanCache(std::string path) : path_(std::move(path)) {}

void PlanCache::complain(const std::string& sentence) {
  problem_ += (problem_.empty() ? "" : "; ") + sentence;
}

PlanCache::Content PlanCache::read() const {
  Content content;
  // Without O_NONBLOCK, opening a pipe that nobody writes to would hang.
  const FileDescriptor fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    if (errno == ENOENT) return content;
    content.state = State::unusable;
    content.reason = reason_of(errno);
    return content;
  }
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    content.state = State::unusable;
    content.reason = S_ISDIR(status.st_mode) ? "it is a directory" : "it is not a regular file";
    return content;
  }
  std::string text(plan_cache_bytes + 1, '\0');
  std::size_t used = 0;
  while (used < text.size()) {
    const ssize_t n = ::read(fd.get(), text.data() + used, text.size() - used);
    if (n == 0) break;
    if (n > 0) {
      used += static_cast<std::size_t>(n);
    } else if (errno != EINTR) {
      content.state = State::unusable;
      content.reason = reason_of(errno);
      return content;
    }
  }
  text.resize(used);
  auto entries = parse_plan_cache(text);
  if (entries) {
    content.state = State::good;
    content.entries = std::move(*entries);
  } else {
    // Another version's is not ours to throw away either.
    const bool ours =
        text.starts_with(first_line) || (text.size() < first_line.size() && first_line.starts_with(text));
    content.state = ours ? State::damaged : State::foreign;
    content.reason = text.starts_with(kind_line) && !ours ? "another version of Lockstep wrote it"
                                                          : "it is not a file that Lockstep wrote";
  }
  return content;
}

void PlanCache::load() {
  if (loaded_) return;
  loaded_ = true;
  if (path_.empty()) {
    complain(
        "the plans that autotuning finds are not kept, since neither XDG_CACHE_HOME nor HOME names a folder: "
        "give device.plan_cache");
    return;
  }
  Content content = read();
  switch (content.state) {
    case State::missing:
    case State::good:
      break;
    case State::damaged:
      complain(
          fmt::format("the plan cache '{}' is damaged: it is passed over, and replaced by a new one", path_));
      break;
    case State::foreign:
      complain(fmt::format("'{}' is no plan cache of this version ({}): it is moved to '{}.old'", path_,
                           content.reason, path_));
      break;
    case State::unusable:
      usable_ = false;
      complain(fmt::format(
          "the plan cache '{}' cannot be read ({}), so the plans that autotuning finds are not kept: give "
          "device.plan_cache another path",
          path_, content.reason));
      break;
  }
  for (PlanEntry& entry : content.entries) {
    std::string key = entry.key;
    known_.insert_or_assign(std::move(key), std::move(entry));
  }
}

std::optional<PlanEntry> PlanCache::find(const std::string& key) {
  load();
  const auto found = known_.find(key);
  if (found == known_.end()) return std::nullopt;
  return found->second;
}

void PlanCache::set(const PlanEntry& entry) {
  load();
  Fresh fresh{entry, {}};
  if (const auto old = known_.find(entry.key); old != known_.end()) fresh.instead_of = old->second.plan;
  known_.insert_or_assign(entry.key, entry);
  // What a file cannot express is for this process alone.
  if (is_plain(entry.key) && is_plain(entry.plan) && std::isfinite(entry.seconds) && entry.seconds >= 0)
    fresh_.push_back(std::move(fresh));
}

void PlanCache::save() {
  if (fresh_.empty() || path_.empty() || !usable_) return;
  try {
    write_merged();
  } catch (const std::exception& e) {
    usable_ = false;  // one attempt at a bad disk is enough
    complain(fmt::format("the plans that autotuning found are not kept: {}", e.what()));
  }
  fresh_.clear();
}

void PlanCache::write_merged() {
  std::error_code error;
  fs::create_directories(parent_directory(path_),
                         error);  // if that fails, so does the writing, with a reason
  const WriterLock lock(path_ + ".lock");
  Content content = read();
  if (content.state == State::unusable)
    throw InputError(fmt::format("'{}' cannot be read: {}", path_, content.reason));
  const std::string aside = content.state == State::foreign ? path_ + ".old" : "";
  if (!aside.empty()) {
    // Perhaps somebody's own file, named by mistake: it is kept, and nothing is overwritten for it.
    if (::link(path_.c_str(), aside.c_str()) != 0)
      throw InputError(fmt::format("'{}' is no plan cache of this version, and cannot be moved to '{}' ({})",
                                   path_, aside, reason_of(errno)));
  }
  std::vector<PlanEntry>& entries = content.entries;
  bool changed = false;
  for (const Fresh& fresh : fresh_) {
    const auto there = std::find_if(entries.begin(), entries.end(),
                                    [&](const PlanEntry& e) { return e.key == fresh.entry.key; });
    if (there != entries.end()) {
      if (there->plan != fresh.instead_of)
        continue;  // others found one meanwhile: all go by that from now on
      entries.erase(there);
    }
    entries.push_back(fresh.entry);  // the newest stand last
    changed = true;
  }
  if (!changed) return;
  try {
    write_file_atomic(path_, format_plan_cache(entries));
  } catch (...) {
    if (!aside.empty()) ::unlink(aside.c_str());
    throw;
  }
}

}  // namespace lockstep::cuda
