#include "core/log.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/printable.h"
#include "core/text.h"

namespace lockstep {
namespace {

constexpr std::size_t most_lines_kept = 1000;  // of what was said before there was a file

/// False when it could not be written whole; errno says why.
bool write_whole(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n > 0) {
      text.remove_prefix(static_cast<std::size_t>(n));
    } else if (n == 0 || errno != EINTR) {
      return false;
    }
  }
  return true;
}

/// Every line of `text` with the time before it, newlines included.
std::string stamped(std::string_view text) {
  const std::string time = time_text() + " ";
  std::string lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines += time;
    lines += text.substr(0, end);
    lines += '\n';
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

}  // namespace

struct Log::File {
  std::mutex mutex;  // guards what follows
  FileDescriptor fd;
  std::string path;
  bool asked = false;               // append_to() was called: no more lines are kept
  std::vector<std::string> before;  // what was said until then
};

Log::Log(LogLevel level, int fd) : level_(level), fd_(fd), file_(std::make_unique<File>()) {}

Log::~Log() = default;

void Log::line(LogLevel level, std::string_view text) const {
  if (!enabled(level)) return;
  std::string message = "lockstep: ";
  if (level == LogLevel::warning) message += "warning: ";
  if (level == LogLevel::error) message += "error: ";
  if (rank_ >= 0) message += fmt::format("[rank {}] ", rank_);
  message += printable_message(text);
  message += '\n';
  write_whole(fd_, message);
  {
    const std::lock_guard lock(file_->mutex);
    if (!file_->asked) {
      if (file_->before.size() < most_lines_kept) file_->before.push_back(stamped(message));
      return;
    }
  }
  note(message);
}

void Log::append_to(const std::string& path) {
  const std::lock_guard lock(file_->mutex);
  require(!file_->asked, "Log::append_to: there is a file already");
  const auto refuse = [&](const std::string& why) {
    throw InputError(
        fmt::format("{}: the log of this rank cannot be written there: {}; mend it, or leave "
                    "log.per_rank out",
                    path, why));
  };
  // Without O_NONBLOCK a pipe of that name would hold this rank until somebody reads it.
  FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC, 0666));
  if (!fd) refuse(std::strerror(errno));
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) refuse(std::strerror(errno));
  if (!S_ISREG(status.st_mode)) refuse("it is no regular file");
  std::string lines;
  for (const std::string& kept : file_->before) lines += kept;
  if (!write_whole(fd.get(), lines)) refuse(std::strerror(errno));
  file_->asked = true;
  file_->before = {};
  file_->fd = std::move(fd);
  file_->path = path;
}

bool Log::has_file() const noexcept {
  const std::lock_guard lock(file_->mutex);
  return static_cast<bool>(file_->fd);
}

void Log::note(std::string_view text) const {
  const std::lock_guard lock(file_->mutex);
  if (!file_->fd || write_whole(file_->fd.get(), stamped(text))) return;
  const std::string why = std::strerror(errno);
  file_->fd = FileDescriptor();
  write_whole(fd_, fmt::format("lockstep: warning: {}: it can no longer be written: {}; what follows is told "
                               "here alone\n",
                               file_->path, why));
}

}  // namespace lockstep
