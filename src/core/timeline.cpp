#include "core/timeline.h"

#include <algorithm>
#include <fmt/format.h>
#include <iterator>

#include "core/error.h"
#include "core/file.h"

namespace lockstep {

const char* name_of(EventKind kind) {
  switch (kind) {
    case EventKind::step:
      return "step";
    case EventKind::slice_forward:
      return "slice_forward";
    case EventKind::slice_backward:
      return "slice_backward";
    case EventKind::op_forward:
      return "op_forward";
    case EventKind::op_backward:
      return "op_backward";
    case EventKind::exchange:
      return "exchange";
    case EventKind::reduce:
      return "reduce";
    case EventKind::optimizer:
      return "optimizer";
    case EventKind::gather:
      return "gather";
    case EventKind::load:
      return "load";
    case EventKind::save:
      return "save";
  }
  throw InternalError("name_of: unknown event kind");
}

Timeline::Timeline(std::size_t capacity) : events_(capacity) {}

void Timeline::record(EventKind kind, std::int32_t lane, std::int64_t a, std::int64_t b,
                      std::int64_t begin_ns, std::int64_t end_ns) noexcept {
  if (!enabled()) return;
  const std::size_t at = next_.fetch_add(1, std::memory_order_relaxed);
  if (at < events_.size()) events_[at] = {kind, lane, a, b, begin_ns, end_ns};
}

std::vector<TimelineEvent> Timeline::events() const {
  const std::size_t n = std::min(next_.load(std::memory_order_relaxed), events_.size());
  return {events_.begin(), events_.begin() + static_cast<std::ptrdiff_t>(n)};
}

std::size_t Timeline::dropped() const noexcept {
  const std::size_t n = next_.load(std::memory_order_relaxed);
  return n > events_.size() ? n - events_.size() : 0;
}

void Timeline::write(const std::string& path) const {
  std::string text;
  for (const TimelineEvent& e : events()) {
    fmt::format_to(std::back_inserter(text),
                   R"({{"kind":"{}","lane":{},"a":{},"b":{},"begin_ns":{},"end_ns":{}}})"
                   "\n",
                   name_of(e.kind), e.lane, e.a, e.b, e.begin_ns, e.end_ns);
  }
  write_file_atomic(path, text);
}

}  // namespace lockstep
