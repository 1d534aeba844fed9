#pragma once

#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <string>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>
#include <vector>

namespace lockstep::test {

/// A command on a terminal of its own, as a user would start it: Ctrl-C goes to whoever has the foreground.
/// All its processes of that session are killed at destruction.
class Terminal {
 public:
  explicit Terminal(const std::vector<std::string>& argv) {
    std::vector<char*> args;
    for (const std::string& a : argv) args.push_back(const_cast<char*>(a.c_str()));
    args.push_back(nullptr);
    pid_ = ::forkpty(&fd_, nullptr, nullptr, nullptr);
    if (pid_ < 0) throw std::system_error(errno, std::generic_category(), "forkpty");
    if (pid_ == 0) {
      for (const int s : {SIGINT, SIGTERM, SIGPIPE, SIGHUP}) ::signal(s, SIG_DFL);
      ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
      ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
      ::execvp(args[0], args.data());
      ::_exit(127);
    }
    ::fcntl(fd_, F_SETFL, ::fcntl(fd_, F_GETFL) | O_NONBLOCK);
    ::fcntl(fd_, F_SETFD, FD_CLOEXEC);
  }
  ~Terminal() {
    if (!reaped_) {
      ::kill(-pid_, SIGKILL);
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(fd_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  pid_t pid() const { return pid_; }
  void type(const std::string& text) {
    if (::write(fd_, text.data(), text.size()) < 0) throw std::system_error(errno, std::generic_category());
  }
  void press_ctrl_c() { type("\x03"); }
  /// Everything that has appeared so far.
  const std::string& screen() {
    char buffer[65536];
    for (ssize_t n; (n = ::read(fd_, buffer, sizeof buffer)) > 0;)
      screen_.append(buffer, static_cast<std::size_t>(n));
    return screen_;
  }
  /// Waits until `text` has appeared, from the `from`th byte on.
  bool shows(const std::string& text, double seconds = 60, std::size_t from = 0) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (screen().find(text, from) == std::string::npos) {
      if (std::chrono::steady_clock::now() > end) return false;
      pollfd fd{fd_, POLLIN, 0};
      ::poll(&fd, 1, 20);
      if ((fd.revents & POLLHUP) != 0) ::usleep(20000);
    }
    return true;
  }
  /// Waits for the end: the exit code, 128 and the signal that ended it, or -1 after so many seconds.
  int wait(double seconds = 60) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    int status = 0;
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
      screen();
      if (std::chrono::steady_clock::now() > end) return -1;
      ::usleep(5000);
    }
    reaped_ = true;
    screen();
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  int fd_ = -1;
  pid_t pid_ = -1;
  bool reaped_ = false;
  std::string screen_;
};

}  // namespace lockstep::test
