#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace lockstep {

/// Persistent messages that are started, and looked at, in one fixed order, once a step.
class RequestChain {
 public:
  void append(std::unique_ptr<PersistentRequest> request) { requests_.push_back(std::move(request)); }
  std::size_t size() const { return requests_.size(); }
  std::size_t completed() const { return completed_; }
  bool done() const { return completed_ == requests_.size(); }

  /// For a new step. All messages must be complete.
  void rewind() { started_ = completed_ = 0; }
  /// Starts the messages before number `end` that have not been started.
  void start_until(std::size_t end) {
    while (started_ < end) requests_[started_++]->start();
  }
  /// Looks at the oldest message under way, and at the next ones as long as they are complete. True when one
  /// was.
  bool drive() {
    const std::size_t before = completed_;
    while (completed_ < started_ && requests_[completed_]->test()) ++completed_;
    return completed_ > before;
  }

 private:
  std::vector<std::unique_ptr<PersistentRequest>> requests_;
  std::size_t started_ = 0;
  std::size_t completed_ = 0;
};

}  // namespace lockstep
