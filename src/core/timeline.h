#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace lockstep {

/// What an event of the timeline is. `a` and `b` of the event mean:
enum class EventKind : std::uint32_t {
  step,            ///< a = step
  slice_forward,   ///< a = step, b = slice (global number)
  slice_backward,  ///< a = step, b = slice
  op_forward,      ///< a = slice, b = index of the op in the graph
  op_backward,     ///< a = slice, b = index of the op in the graph
  exchange,        ///< a = step, b = bucket: from the first work on it to its completion on this rank
  reduce,          ///< a = step, b = bucket: one piece of summing work on this rank
  optimizer,       ///< a = step
  gather,          ///< a = step: parameters from their owners
  load,            ///< a = step: waiting for data
  save             ///< a = step: checkpoint
};
const char* name_of(EventKind kind);

struct TimelineEvent {
  EventKind kind;
  std::int32_t lane;
  std::int64_t a;
  std::int64_t b;
  std::int64_t begin_ns;  ///< since the recorder was made
  std::int64_t end_ns;
};

/// Records events of this rank into memory taken once. Disabled (capacity 0) it costs one branch.
/// record() may be called by any thread. When full, later events are dropped and counted.
class Timeline {
 public:
  explicit Timeline(std::size_t capacity = 0);
  bool enabled() const noexcept { return !events_.empty(); }
  std::int64_t now() const noexcept {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - origin_)
        .count();
  }
  void record(EventKind kind, std::int32_t lane, std::int64_t a, std::int64_t b, std::int64_t begin_ns,
              std::int64_t end_ns) noexcept;
  /// Events in the order of recording. Not to be called while others record.
  std::vector<TimelineEvent> events() const;
  std::size_t dropped() const noexcept;
  /// One JSON object a line: kind, lane, a, b, begin_ns, end_ns. Throws InputError when the file cannot be
  /// written.
  void write(const std::string& path) const;

 private:
  std::chrono::steady_clock::time_point origin_ = std::chrono::steady_clock::now();
  std::vector<TimelineEvent> events_;
  std::atomic<std::size_t> next_{0};
};

}  // namespace lockstep
