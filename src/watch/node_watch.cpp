#include "watch/node_watch.h"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <type_traits>

#include "core/text.h"
#include "device/cpu_info.h"

namespace lockstep {
namespace {

using Presence = RankView::Presence;

/// A watchdog that looks several times a second has not run at all for so long.
constexpr double frozen_s = 10;
/// At most so much of the time between two looks counts: more means that this process was stopped itself.
constexpr double longest_look_s = 1;
/// So much of the time for which a process waits for a cpu counts.
constexpr double share_of_cpu_waits = 0.1;
constexpr std::size_t events_told = 24;

}  // namespace

NodeWatch::NodeWatch(NodeFile& file, NodePlace place, std::string proc)
    : file_(file),
      place_(std::move(place)),
      host_(host_name()),
      seen_(static_cast<std::size_t>(file.slots())),
      cpu_waits_(std::move(proc)) {}

void NodeWatch::look(std::int64_t now_ns, double timeout) {
  const double passed =
      looked_ns_ == 0 ? 0 : std::min(longest_look_s, static_cast<double>(now_ns - looked_ns_) * 1e-9);
  looked_ns_ = now_ns;
  for (int i = 0; i < file_.slots(); ++i) {
    const FlightSlot& slot = file_.slot(i);
    Seen& seen = seen_[static_cast<std::size_t>(i)];
    const RankState state = slot.state.load(std::memory_order_acquire);
    const std::uint64_t beats = slot.beats.load(std::memory_order_relaxed);
    const std::uint64_t watch_beats = slot.watch_beats.load(std::memory_order_relaxed);
    const bool moved = beats != seen.beats || state != seen.state;
    double counts = passed;
    if (moved)
      cpu_waits_.forget(slot.pid.load(std::memory_order_relaxed));
    else if (seen.quiet_s >= timeout / 4 && cpu_waits_.look(slot.pid.load(std::memory_order_relaxed)))
      counts *= share_of_cpu_waits;
    seen.quiet_s = moved ? 0 : seen.quiet_s + counts;
    seen.silent_s = watch_beats != seen.watch_beats || state != seen.state ? 0 : seen.silent_s + counts;
    seen.beats = beats;
    seen.watch_beats = watch_beats;
    seen.state = state;
  }
}

bool NodeWatch::may_hang(double timeout, double start) const {
  for (int i = 0; i < file_.slots(); ++i) {
    const Seen& seen = seen_[static_cast<std::size_t>(i)];
    if (seen.state == RankState::left || seen.state == RankState::told_to_end ||
        (seen.state == RankState::absent && all_have_come_))
      continue;
    // Patience is looked at later: a process that is stopped in a patient phase has none.
    if (seen.quiet_s < (seen.state == RankState::absent ? start : timeout)) return false;
  }
  return true;
}

void NodeWatch::describe_absent(RankView& view) const {
  if (place_.local_rank_variable.empty() || place_.marks.empty()) return;
  std::vector<std::string> lines = place_.marks;
  lines.push_back(fmt::format("{}={}", place_.local_rank_variable, view.local_rank));
  const std::vector<FoundProcess> found = processes_with(lines);
  if (found.empty()) {
    view.process = "no process of it was found";
    return;
  }
  const FoundProcess& first = found.front();
  view.pid = first.pid;
  view.process =
      fmt::format("its process runs \"{}\" and {}has not come to Lockstep", first.command,
                  process_state(static_cast<std::int32_t>(first.pid)).stopped() ? "is stopped, and " : "");
  const std::string name = '\0' + place_.rank_variable + "=";
  if (const std::size_t at = first.environment.find(name); view.rank < 0 && at != std::string::npos) {
    const std::size_t begin = at + name.size();
    const std::size_t end = first.environment.find('\0', begin);
    view.rank = static_cast<int>(parse_int64(first.environment.substr(begin, end - begin)).value_or(-1));
  }
}

std::vector<RankView> NodeWatch::views(std::int64_t now_ns) {
  std::vector<RankView> all;
  for (int i = 0; i < file_.slots(); ++i) {
    const FlightSlot& slot = file_.slot(i);
    const Seen& seen = seen_[static_cast<std::size_t>(i)];
    RankView v;
    v.local_rank = i;
    v.host = host_;
    v.quiet = seen.quiet_s;
    v.clock_ns = now_ns;
    if (seen.state == RankState::absent) {
      if (all_have_come_) continue;
      v.presence = Presence::absent;
      v.rank = place_.ranks.empty() ? -1 : place_.ranks[static_cast<std::size_t>(i)];
      describe_absent(v);
      all.push_back(std::move(v));
      continue;
    }
    v.rank = slot.rank.load(std::memory_order_relaxed);
    v.pid = slot.pid.load(std::memory_order_relaxed);
    v.patience = slot.patience.load(std::memory_order_relaxed);
    v.now = slot.now.read();
    v.now_age = v.now.number == 0 ? 0 : static_cast<double>(now_ns - v.now.begin_ns) * 1e-9;
    v.device = device_of(slot);
    v.prompt = slot.prompt.load(std::memory_order_relaxed) != 0;
    v.works = slot.working.load(std::memory_order_relaxed) != 0 &&
              slot.waiting.load(std::memory_order_relaxed) == 0;
    v.events = events_of(slot, events_told);
    v.calls = calls_of(slot);
    if (seen.state == RankState::left || seen.state == RankState::told_to_end) {
      v.presence = Presence::left;
    } else if (i != file_.own()) {
      const ProcessState process = process_state(v.pid);
      if (process.gone() || process.start_time != slot.start_time.load(std::memory_order_relaxed))
        v.presence = Presence::gone;
      else if (process.stopped())
        v.presence = Presence::stopped;
      else if (seen.state == RankState::failing)
        v.presence = Presence::failing;
      else if (seen.silent_s > frozen_s)
        v.presence = Presence::frozen;
    } else if (seen.state == RankState::failing) {
      v.presence = Presence::failing;
    }
    all.push_back(std::move(v));
  }
  return all;
}

namespace {

class Writer {
 public:
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void put(const T& value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof value); }
  void put(const std::string& text) {
    put(text.size());
    bytes += text;
  }
  void put(const std::vector<FlightEvent>& events) {
    put(events.size());
    for (const FlightEvent& e : events) put(e);
  }
  std::string bytes;
};

class Reader {
 public:
  explicit Reader(const std::string& bytes) : bytes_(bytes) {}
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void get(T& value) {
    if (!take(sizeof value)) return;
    std::memcpy(&value, bytes_.data() + at_ - sizeof value, sizeof value);
  }
  void get(std::string& text) {
    std::size_t size = 0;
    get(size);
    if (take(size)) text = bytes_.substr(at_ - size, size);
  }
  void get(std::vector<FlightEvent>& events) {
    std::size_t size = 0;
    get(size);
    if (!good_ || size > bytes_.size() / sizeof(FlightEvent)) good_ = false;
    for (std::size_t i = 0; good_ && i < size; ++i) get(events.emplace_back());
  }
  bool good() const { return good_; }

 private:
  bool take(std::size_t n) {
    if (!good_ || n > bytes_.size() - at_) return good_ = false;
    at_ += n;
    return true;
  }
  const std::string& bytes_;
  std::size_t at_ = 0;
  bool good_ = true;
};

template <class Stream, class View, class Field>
void each_field(Stream& stream, View& v, Field field) {
  field(stream, v.rank);
  field(stream, v.local_rank);
  field(stream, v.host);
  field(stream, v.pid);
  field(stream, v.presence);
  field(stream, v.quiet);
  field(stream, v.patience);
  field(stream, v.now);
  field(stream, v.now_age);
  field(stream, v.device);
  field(stream, v.works);
  field(stream, v.prompt);
  field(stream, v.events);
  field(stream, v.calls);
  field(stream, v.clock_ns);
  field(stream, v.process);
}

}  // namespace

std::string pack(const std::vector<RankView>& views) {
  Writer out;
  out.put(views.size());
  for (const RankView& v : views) each_field(out, v, [](Writer& w, const auto& value) { w.put(value); });
  return out.bytes;
}

std::vector<RankView> unpack_views(const std::string& bytes) {
  Reader in(bytes);
  std::size_t size = 0;
  in.get(size);
  std::vector<RankView> views;
  for (std::size_t i = 0; in.good() && i < size; ++i)
    each_field(in, views.emplace_back(), [](Reader& r, auto& value) { r.get(value); });
  return in.good() ? views : std::vector<RankView>{};
}

}  // namespace lockstep
