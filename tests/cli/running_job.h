#pragma once

#include <chrono>
#include <dirent.h>
#include <filesystem>
#include <fstream>
#include <signal.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include "cli/cli_support.h"

namespace lockstep::test {

inline void sleep_ms(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

/// The value of a field of /proc/PID/status; empty when there is none.
inline std::string status_field(pid_t pid, const std::string& name) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name + ":")) {
      const std::size_t value = line.find_first_not_of(" \t", name.size() + 1);
      return value == std::string::npos ? "" : line.substr(value);
    }
  return "";
}

/// Whether the process has a handler of its own for the signal.
inline bool handles(pid_t pid, int signal) {
  const std::string mask = status_field(pid, "SigCgt");
  return !mask.empty() && (std::stoull(mask, nullptr, 16) >> (signal - 1) & 1) != 0;
}

/// Whether the signal was sent to the process, which has not taken it yet.
inline bool is_pending(pid_t pid, int signal) {
  const std::string mask = status_field(pid, "ShdPnd");
  return !mask.empty() && (std::stoull(mask, nullptr, 16) >> (signal - 1) & 1) != 0;
}

/// A job of `lockstep` under way: bare (ranks 0) or under mpirun.
class RunningJob {
 public:
  RunningJob(int ranks, const std::vector<std::string>& args, ProcessOptions options = {}) : ranks_(ranks) {
    std::vector<std::string> program = {LOCKSTEP_PROGRAM};
    program.insert(program.end(), args.begin(), args.end());
    options.timeout_s = 200;
    process_ = std::make_unique<Process>(ranks == 0 ? program : mpirun_argv(ranks, program),
                                         with_mpirun_env(std::move(options)));
  }
  Process& process() { return *process_; }
  /// What was started: mpirun, or the only process.
  pid_t launcher() const { return process_->pid(); }

  /// The processes of `lockstep`, in the order of their start, which is that of ranks on one host.
  std::vector<pid_t> pids() const {
    if (ranks_ == 0) return {launcher()};
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      const pid_t pid = std::stoi(name);
      if (status_field(pid, "PPid") == std::to_string(launcher()) && status_field(pid, "Name") == "lockstep")
        found.push_back(pid);
    }
    std::sort(found.begin(), found.end());
    return found;
  }
  /// Waits until every process handles `signal`; false when the job ends before.
  bool await_handlers(int signal) {
    const auto wanted = static_cast<std::size_t>(std::max(ranks_, 1));
    for (int i = 0; i < 60000; ++i) {
      process_->out();
      const std::vector<pid_t> all = pids();
      if (all.size() == wanted &&
          std::all_of(all.begin(), all.end(), [&](pid_t pid) { return handles(pid, signal); }))
        return true;
      sleep_ms(1);
    }
    return false;
  }
  /// After a signal: waits until every process of the job has taken it, so that the next one is another.
  void await_taken(int signal) {
    for (int i = 0; i < 60000; ++i) {
      const std::vector<pid_t> all = pids();
      if (std::none_of(all.begin(), all.end(), [&](pid_t pid) { return is_pending(pid, signal); })) return;
      sleep_ms(1);
    }
  }
  /// Waits until `text` has come out on standard output.
  bool await_output(const std::string& text) {
    for (int i = 0; i < 60000; ++i) {
      if (process_->out().find(text) != std::string::npos) return true;
      sleep_ms(1);
    }
    return false;
  }
  /// Lets time pass while the job's output is read.
  void run_for(int ms) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
    while (std::chrono::steady_clock::now() < end) {
      process_->out();
      sleep_ms(1);
    }
  }
  ProcessResult wait() { return process_->wait(); }

 private:
  int ranks_;
  std::unique_ptr<Process> process_;
};

/// Stops and continues a process again and again, so that it gets about a tenth of the time it would have.
class Slowdown {
 public:
  explicit Slowdown(pid_t pid)
      : pid_(pid), thread_([this](const std::stop_token& stop) {
          while (!stop.stop_requested()) {
            ::kill(pid_, SIGSTOP);
            sleep_ms(45);
            ::kill(pid_, SIGCONT);
            sleep_ms(5);
          }
        }) {}

 private:
  pid_t pid_;
  std::jthread thread_;
};

}  // namespace lockstep::test
