#include "core/log.h"

#include <cerrno>
#include <string>
#include <unistd.h>

namespace lockstep {

void Log::line(LogLevel level, std::string_view text) const {
  if (!enabled(level)) return;
  std::string message = "lockstep: ";
  if (level == LogLevel::warning) message += "warning: ";
  if (level == LogLevel::error) message += "error: ";
  if (rank_ >= 0) message += fmt::format("[rank {}] ", rank_);
  message += text;
  message += '\n';
  std::string_view rest = message;
  while (!rest.empty()) {
    const ssize_t n = ::write(fd_, rest.data(), rest.size());
    if (n > 0) {
      rest.remove_prefix(static_cast<std::size_t>(n));
    } else if (n == 0 || errno != EINTR) {
      return;
    }
  }
}

}  // namespace lockstep
