#include "watch/node_watch.h"

#include <algorithm>
#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"
#include "core/wire.h"
#include "device/cpu_info.h"

namespace lockstep {
namespace {

using Presence = RankView::Presence;

/// A process whose watchdog has not run for so many seconds is frozen.
constexpr double frozen_s = 10;
/// At most so many seconds between two looks are counted: more means that this process itself was stopped.
constexpr double longest_look_s = 1;
/// The share of the time waiting for a cpu that is counted as time without progress.
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
    // The patience of its phase is looked at later: a process that is stopped gets none.
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

void add(WireWriter& out, const FlightEvent& e) {
  out.add(e.number).add(static_cast<std::uint32_t>(e.activity)).add(e.step).add(e.bucket);
  out.add(e.bytes).add(e.call).add(e.begin_ns).add(e.end_ns);
}

FlightEvent event_from(WireReader& in) {
  FlightEvent e;
  e.number = in.get<std::uint64_t>();
  e.activity = static_cast<Activity>(in.get<std::uint32_t>());
  e.step = in.get<std::int64_t>();
  e.bucket = in.get<std::int64_t>();
  e.bytes = in.get<std::uint64_t>();
  e.call = in.get<std::uint64_t>();
  e.begin_ns = in.get<std::int64_t>();
  e.end_ns = in.get<std::int64_t>();
  return e;
}

void add(WireWriter& out, const std::vector<FlightEvent>& events) {
  out.begin_list(events.size());
  for (const FlightEvent& e : events) add(out, e);
}

std::vector<FlightEvent> events_from(WireReader& in) {
  std::vector<FlightEvent> events(in.get_list());
  for (FlightEvent& e : events) e = event_from(in);
  return events;
}

void add(WireWriter& out, const RankView& v) {
  out.add(v.rank).add(v.local_rank).add(v.host).add(std::int64_t{v.pid}).add(static_cast<int>(v.presence));
  out.add(v.quiet).add(v.patience);
  add(out, v.now);
  out.add(v.now_age).add(v.device.entered).add(v.device.left).add(v.device.bucket);
  out.add(v.works).add(v.prompt);
  add(out, v.events);
  add(out, v.calls);
  out.add(v.clock_ns).add(v.process);
}

RankView view_from(WireReader& in) {
  RankView v;
  v.rank = in.get<int>();
  v.local_rank = in.get<int>();
  v.host = in.get<std::string>();
  v.pid = in.get<long>();
  v.presence = static_cast<RankView::Presence>(in.get<int>());
  v.quiet = in.get<double>();
  v.patience = in.get<int>();
  v.now = event_from(in);
  v.now_age = in.get<double>();
  v.device.entered = in.get<std::uint64_t>();
  v.device.left = in.get<std::uint64_t>();
  v.device.bucket = in.get<std::int64_t>();
  v.works = in.get<bool>();
  v.prompt = in.get<bool>();
  v.events = events_from(in);
  v.calls = events_from(in);
  v.clock_ns = in.get<std::int64_t>();
  v.process = in.get<std::string>();
  return v;
}

}  // namespace

std::string pack(const std::vector<RankView>& views) {
  WireWriter out;
  out.begin_list(views.size());
  for (const RankView& v : views) add(out, v);
  return out.text();
}

std::vector<RankView> unpack_views(const std::string& bytes) {
  // They came through a socket to which anybody may have written.
  try {
    WireReader in(bytes);
    std::vector<RankView> views;
    const std::size_t count = in.get_list();
    while (views.size() < count) views.push_back(view_from(in));
    in.finish();
    return views;
  } catch (const InternalError&) {
    return {};
  }
}

}  // namespace lockstep
