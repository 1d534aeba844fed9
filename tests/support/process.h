#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <initializer_list>
#include <map>
#include <poll.h>
#include <signal.h>
#include <string>
#include <sys/wait.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

namespace lockstep::test {

struct ProcessOptions {
  double timeout_s = 60;  ///< then SIGTERM to the child's process group, SIGKILL 3 s later
  std::map<std::string, std::string> env = {};  ///< added to this process's own
  std::string directory = {};                   ///< working folder; empty: this process's own
  std::string input = {};                       ///< what the child reads on stdin
};

struct ProcessResult {
  int exit_code = -1;  ///< -1 when a signal ended it
  int signal = 0;      ///< that signal
  bool timed_out = false;
  std::string out;
  std::string err;
  double seconds = 0;

  /// For failure messages of tests.
  std::string describe() const {
    return "exit " + std::to_string(exit_code) + ", signal " + std::to_string(signal) +
           (timed_out ? ", timed out" : "") + "\n--- stdout\n" + out + "\n--- stderr\n" + err;
  }
};

namespace detail {

struct Pipe {
  int read_end = -1;
  int write_end = -1;
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
    read_end = ends[0];
    write_end = ends[1];
  }
  ~Pipe() {
    close_read();
    close_write();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void close_read() { close_end(read_end); }
  void close_write() { close_end(write_end); }

 private:
  static void close_end(int& fd) {
    if (fd >= 0) close(fd);
    fd = -1;
  }
};

}  // namespace detail

/// A command under way, in a process group of its own. Ended by SIGKILL when it is still alive at
/// destruction.
class Process {
 public:
  /// argv[0] is looked up in PATH. Throws std::system_error when it cannot be started; an unknown program
  /// ends with exit code 127.
  explicit Process(const std::vector<std::string>& argv, ProcessOptions options = {})
      : options_(std::move(options)), start_(std::chrono::steady_clock::now()) {
    std::vector<std::string> environment;
    for (char** e = environ; *e != nullptr; ++e) {
      const std::string entry = *e;
      if (options_.env.count(entry.substr(0, entry.find('='))) == 0) environment.push_back(entry);
    }
    for (const auto& [key, value] : options_.env) environment.push_back(key + "=" + value);
    std::vector<char*> args = pointers(argv);
    std::vector<char*> envp = pointers(environment);
    pid_ = fork();
    if (pid_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
    if (pid_ == 0) {
      setpgid(0, 0);
      signal(SIGPIPE, SIG_DFL);
      dup2(in_.read_end, 0);
      dup2(out_.write_end, 1);
      dup2(err_.write_end, 2);
      if (!options_.directory.empty() && chdir(options_.directory.c_str()) != 0) _exit(126);
      execvpe(args[0], args.data(), envp.data());
      _exit(127);
    }
    setpgid(pid_, pid_);
    in_.close_read();
    out_.close_write();
    err_.close_write();
    for (int fd : {in_.write_end, out_.read_end, err_.read_end}) {
      fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    }
  }
  ~Process() {
    if (reaped_) return;
    ::kill(-pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  /// To the child alone, not to its group.
  void send_signal(int number) const { ::kill(pid_, number); }
  /// What has come out so far; reads what is there without waiting.
  const std::string& out() {
    pump(0);
    return result_.out;
  }

  bool running() { return !ended(); }
  /// For failure messages of tests: what has come out so far, and whether it runs.
  std::string so_far() {
    pump(0);
    return (running() ? "runs; " : "has ended; ") + result_.describe();
  }

  /// Feeds stdin, collects both outputs and waits for the end or the timeout.
  ProcessResult wait() {
    // A child that closes its stdin early must not end the test program.
    struct sigaction ignore {};
    struct sigaction before {};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &ignore, &before);
    bool termed = false;
    bool killed = false;
    while (!ended()) {
      pump(20);
      const double seconds = elapsed();
      if (!termed && seconds > options_.timeout_s) {
        result_.timed_out = termed = true;
        ::kill(-pid_, SIGTERM);
      }
      if (!killed && seconds > options_.timeout_s + 3) {
        killed = true;
        ::kill(-pid_, SIGKILL);
      }
    }
    // What the child wrote last; a grandchild that keeps the pipe open is not waited for.
    for (int i = 0; i < 50 && pump(result_.timed_out ? 0 : 20); ++i) {
    }
    sigaction(SIGPIPE, &before, nullptr);
    result_.seconds = elapsed();
    return result_;
  }

 private:
  static std::vector<char*> pointers(const std::vector<std::string>& texts) {
    std::vector<char*> p;
    for (const std::string& t : texts) p.push_back(const_cast<char*>(t.c_str()));
    p.push_back(nullptr);
    return p;
  }
  double elapsed() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  bool ended() {
    if (reaped_) return true;
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
    reaped_ = true;
    if (WIFEXITED(status)) result_.exit_code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) result_.signal = WTERMSIG(status);
    return true;
  }
  void feed() {
    if (in_.write_end < 0) return;
    const std::string& text = options_.input;
    while (fed_ < text.size()) {
      const ssize_t n = write(in_.write_end, text.data() + fed_, text.size() - fed_);
      if (n < 0 && errno == EAGAIN) return;
      if (n < 0) break;
      fed_ += static_cast<std::size_t>(n);
    }
    in_.close_write();
  }
  static void drain(detail::Pipe& pipe, std::string& into) {
    char buffer[65536];
    while (pipe.read_end >= 0) {
      const ssize_t n = read(pipe.read_end, buffer, sizeof buffer);
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) {
        pipe.close_read();
        return;
      }
      into.append(buffer, static_cast<std::size_t>(n));
    }
  }
  /// False when both outputs are closed.
  bool pump(int milliseconds) {
    feed();
    pollfd fds[3] = {{out_.read_end, POLLIN, 0}, {err_.read_end, POLLIN, 0}, {in_.write_end, POLLOUT, 0}};
    if (out_.read_end < 0 && err_.read_end < 0 && milliseconds > 0) milliseconds = std::min(milliseconds, 5);
    poll(fds, 3, milliseconds);
    drain(out_, result_.out);
    drain(err_, result_.err);
    return out_.read_end >= 0 || err_.read_end >= 0;
  }

  ProcessOptions options_;
  detail::Pipe in_, out_, err_;
  std::chrono::steady_clock::time_point start_;
  std::size_t fed_ = 0;
  pid_t pid_ = -1;
  bool reaped_ = false;
  ProcessResult result_;
};

/// Runs a command to its end.
inline ProcessResult run_process(const std::vector<std::string>& argv, ProcessOptions options = {}) {
  return Process(argv, std::move(options)).wait();
}

/// Whether a process is there and not a zombie.
inline bool is_alive(long pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  return static_cast<bool>(std::getline(stat, text)) && text.find(") Z ") == std::string::npos;
}

/// Whether a process ends within ten seconds.
inline bool ends_soon(long pid) {
  for (int i = 0; i < 200 && is_alive(pid); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  return !is_alive(pid);
}

/// The argv of `program` on `ranks` ranks of this machine: more ranks than cores allowed, no rank bound to a
/// core.
inline std::vector<std::string> mpirun_argv(int ranks, const std::vector<std::string>& program,
                                            const std::vector<std::string>& mpirun_options = {}) {
  std::vector<std::string> argv = {"mpirun", "--oversubscribe",    "--bind-to", "none",
                                   "-n",     std::to_string(ranks)};
  argv.insert(argv.end(), mpirun_options.begin(), mpirun_options.end());
  argv.insert(argv.end(), program.begin(), program.end());
  return argv;
}

/// Open MPI refuses root unless told twice. Told to take what it would choose on one machine anyway, it
/// starts a quarter of a second sooner, in which it looks for networks. The tests of lockstep-run and of the
/// package leave it the choice.
inline ProcessOptions with_mpirun_env(ProcessOptions options = {}) {
  if (std::getenv("OMPI_MCA_pml") == nullptr) options.env.emplace("OMPI_MCA_pml", "ob1");
  options.env.emplace("OMPI_ALLOW_RUN_AS_ROOT", "1");
  options.env.emplace("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  return options;
}

/// Runs `program` on `ranks` ranks to its end. On the timeout mpirun gets SIGTERM, which ends its ranks too.
inline ProcessResult run_mpi(int ranks, const std::vector<std::string>& program, ProcessOptions options = {},
                             const std::vector<std::string>& mpirun_options = {}) {
  return run_process(mpirun_argv(ranks, program, mpirun_options), with_mpirun_env(std::move(options)));
}

/// True when LOCKSTEP_REQUIRE lists `means` (comma separated): a test whose means are missing must then fail
/// instead of being skipped.
inline bool is_required(const std::string& means) {
  const char* list = std::getenv("LOCKSTEP_REQUIRE");
  return list != nullptr && ("," + std::string(list) + ",").find("," + means + ",") != std::string::npos;
}

}  // namespace lockstep::test

/// Ends the test as skipped with a reason, or as failed where LOCKSTEP_REQUIRE lists `means`.
#define LOCKSTEP_SKIP_WITHOUT(means, reason)                                                         \
  do {                                                                                               \
    if (::lockstep::test::is_required(means)) FAIL() << "required: " << (means) << ": " << (reason); \
    GTEST_SKIP() << (reason);                                                                        \
  } while (false)
