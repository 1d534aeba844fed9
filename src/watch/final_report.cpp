#include "watch/final_report.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fcntl.h>
#include <memory>
#include <poll.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

#include "core/file.h"

namespace lockstep {

void write_error_stream(std::string_view text) {
  while (!text.empty()) {
    pollfd fd{2, POLLOUT, 0};
    if (::poll(&fd, 1, 1000) <= 0 || (fd.revents & POLLOUT) == 0) return;
    // A pipe that can be written takes PIPE_BUF bytes at once (pipe(7)).
    const ssize_t n = ::write(2, text.data(), std::min<std::size_t>(text.size(), 4096));
    if (n <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

bool do_in_time(std::function<void()> act, double seconds) {
  struct Outcome {
    std::atomic<int> done{0};  ///< 1 done, 2 failed
  };
  const auto outcome = std::make_shared<Outcome>();
  try {
    std::thread([outcome, act = std::move(act)] {
      try {
        act();
        outcome->done = 1;
      } catch (...) {
        outcome->done = 2;
      }
    }).detach();
  } catch (const std::system_error&) {
    return false;
  }
  for (double waited = 0; waited < seconds && outcome->done == 0; waited += 0.02) ::poll(nullptr, 0, 20);
  return outcome->done == 1;
}

bool append_in_time(const std::string& path, const std::string& text) {
  const auto append = [path, text] {
    const FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    if (!fd || ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
      throw std::system_error(errno, std::generic_category());
  };
  return do_in_time(append, 3);
}

}  // namespace lockstep
