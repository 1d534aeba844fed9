#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace lockstep {

/// A thread that does one job at a time behind its owner. The thread starts with the first job, runs on the
/// given cpus, yields to the lanes where cores are scarce, and takes no signals.
class BackgroundThread {
 public:
  /// `cpus`: empty for those of the caller.
  explicit BackgroundThread(std::vector<int> cpus);
  /// Waits for the job under way.
  ~BackgroundThread();
  BackgroundThread(const BackgroundThread&) = delete;
  BackgroundThread& operator=(const BackgroundThread&) = delete;

  /// Hands a job over and returns. Only when idle(). What the job throws is kept as text.
  void start(std::function<void()> job);
  /// Whether the last job has ended; its effects are then visible to the caller. Never blocks.
  bool idle() const noexcept;
  /// When idle: what the last job threw, empty when nothing.
  const std::string& failure() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lockstep
