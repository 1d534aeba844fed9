#include <algorithm>
#include <csignal>
#include <ctime>
#include <fcntl.h>
#include <fmt/format.h>
#include <thread>
#include <unistd.h>
#include <utility>

#include "core/error.h"
#include "core/text.h"
#include "watch/final_report.h"
#include "watch/reaper.h"
#include "watch/watchdog_state.h"

namespace lockstep {
namespace {

using Presence = RankView::Presence;

constexpr const char* report_file = "hang.report.txt";
constexpr const char* terminated_file = "terminated.report.txt";
constexpr std::size_t events_filed = 24;

/// Whether a process is Open MPI's mpirun (and not, say, a script that was put between), or with `daemons`
/// its daemon on another host.
bool is_launcher(long pid, bool daemons = false) {
  const FileDescriptor fd(::open(fmt::format("/proc/{}/comm", pid).c_str(), O_RDONLY | O_CLOEXEC));
  char name[32] = "";
  const ssize_t n = fd ? ::read(fd.get(), name, sizeof name - 1) : 0;
  const std::string_view text =
      trim(std::string_view(name, static_cast<std::size_t>(std::max<ssize_t>(n, 0))));
  return text == "mpirun" || text == "mpiexec" || text == "orterun" || (daemons && text == "orted");
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32] = "";
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &parts);
  return text;
}

}  // namespace

void Watchdog::State::report(const HangReport& verdict, const std::vector<RankView>& views) {
  std::string where;
  {
    const std::lock_guard lock(mutex);
    where = directory;
  }
  const int rank = file.mine().rank.load();
  for (const int culprit : verdict.culprits) {
    const Presence presence = views[static_cast<std::size_t>(culprit)].presence;
    lost_host = lost_host || presence == Presence::unreachable || presence == Presence::silent;
  }
  double quiet = limit() * 1000;
  for (const RankView& v : views)
    if (v.presence != Presence::left) quiet = std::min(quiet, v.quiet);
  const std::string head = fmt::format(
      "nothing has moved for {} (watchdog.timeout is {}): ", human_duration(quiet), human_duration(limit()));
  // The lines of many ranks would push the first one off the screen.
  std::string lines = verdict.text;
  constexpr std::size_t most = 16384;
  if (lines.size() > most) lines = lines.substr(0, lines.rfind('\n', most) + 1) + "  …\n";
  write_error_stream(fmt::format("lockstep: error: [rank {}] {}{}", rank, head, lines));
  if (where.empty()) return;
  std::string full = fmt::format("{} reported by rank {} on {}, pid {}\n{}{}", utc_now(), rank, host,
                                 getpid(), head, verdict.text);
  for (const RankView& v : views)
    if (!v.events.empty())
      full += fmt::format("  flight recorder of {}:\n{}", who(v), events_text(v, events_filed, "    "));
  full += '\n';
  const std::string path = where + "/" + report_file;
  if (append_in_time(path, full))
    write_error_stream(
        fmt::format("lockstep: [rank {}] the flight recorders of all ranks are in {}\n", rank, path));
}

/// mpirun kills what is left one second after its SIGTERM.
void Watchdog::State::say_farewell() {
  std::function<void()> act;
  {
    const std::lock_guard lock(mutex);
    act = std::exchange(farewell, nullptr);
  }
  if (act) do_in_time(std::move(act), 0.7);
}

void Watchdog::State::leave() {
  // The first process of this node to leave has the others killed if they do not end by themselves.
  if (file.header().ending.exchange(2, std::memory_order_acq_rel) != 2) {
    file.remove();
    std::vector<Victim> victims;
    for (int i = 0; i < file.slots(); ++i) {
      const FlightSlot& slot = file.slot(i);
      if (i != file.own() && slot.state.load() != RankState::absent)
        victims.push_back({slot.pid.load(), slot.start_time.load()});
    }
    if (!place.marks.empty() && !link.joined())
      for (const FoundProcess& p : processes_with(place.marks))
        if (p.environment.find('\0' + place.local_rank_variable + "=") != std::string::npos)
          victims.push_back({static_cast<std::int32_t>(p.pid), p.start_time});
    reap_later(victims, 3);
    // Open MPI's mpirun waits for ever for a host that is lost. Where it does not, it has ended before the
    // ten seconds are over.
    const std::int32_t parent = ::getppid();
    if (lost_host && started_by_mpirun() && is_launcher(parent))
      reap_later({{parent, process_state(parent).start_time}}, 10);
  }
  say_farewell();
  ::_exit(static_cast<int>(ExitCode::peer));
}

/// Whether every rank of the job is known to live or to have been ended by the launcher.
bool Watchdog::State::nobody_failed() {
  if (!alone()) {
    // Ask the other hosts, but not for long: mpirun kills what is left after one second.
    if (!link.joined()) return false;
    const std::int64_t asked = FlightRecorder::now();
    for (std::size_t node = 0; node < link.nodes(); ++node) link.ask(node);
    for (int i = 0; i < 15; ++i) link.pump(20);
    constexpr std::int64_t fresh_ns = 3'000'000'000;
    for (std::size_t node = 0; node < link.nodes(); ++node)
      if (link.heard(node).at_ns == 0 || asked - link.heard(node).at_ns > fresh_ns) return false;
  }
  const std::int64_t now = FlightRecorder::now();
  watch.look(now, limit());
  const std::vector<RankView> views = all_views(now);
  return std::all_of(views.begin(), views.end(), [](const RankView& v) {
    return v.presence == Presence::present || v.presence == Presence::left ||
           v.presence == Presence::stopped ||
           // A process may not have started yet when the job is ended.
           (v.presence == Presence::absent && v.pid != 0);
  });
}

void Watchdog::State::say_interrupted() {
  if (file.mine().rank.load() != 0) return;
  const std::lock_guard lock(mutex);
  write_error_stream(fmt::format("lockstep: mpirun was interrupted and ends the job (SIGTERM){}{}\n",
                                 way_on.empty() ? "" : ": ", way_on));
}

/// What this rank did last, and who is gone.
void Watchdog::State::say_ended() {
  std::string gone, recorded;
  for (const RankView& v : watch.views(FlightRecorder::now())) {
    if (v.pid == getpid()) recorded = events_text(v, events_filed, "    ");
    if (v.presence == Presence::failing) return;  // it has said why
    if (v.presence == Presence::gone) gone += (gone.empty() ? "" : "; ") + who(v) + " is gone";
  }
  const std::vector<FlightEvent> events = events_of(file.mine(), 4);
  std::string last;
  for (auto e = events.rbegin(); e != events.rend(); ++e)
    last += fmt::format("{}{}{}", last.empty() ? "" : ", before that ", describe(*e),
                        e->end_ns == 0 ? " (not left)" : "");
  write_error_stream(fmt::format("lockstep: [rank {}] mpirun ends this rank (SIGTERM): {}; last here: {}\n",
                                 file.mine().rank.load(),
                                 !gone.empty() ? gone
                                 : alone() ? "a rank has left before it came here, or somebody stops the job"
                                           : "a rank of another host has failed, or somebody stops the job",
                                 last.empty() ? "nothing" : last));
  std::string path;
  {
    const std::lock_guard lock(mutex);
    path = directory;
  }
  // mpirun kills what is left after one second, so the line above is written first.
  if (!path.empty())
    append_in_time(path + "/" + terminated_file,
                   fmt::format("{} SIGTERM under mpirun: flight recorder of rank {} on {}, pid {}:\n{}\n",
                               utc_now(), file.mine().rank.load(), host, getpid(), recorded));
}

void Watchdog::State::terminated(long sender) {
  const bool by_launcher = is_launcher(sender, true);
  // Before anything else: ranks that get the signal later would take this one for dead.
  if (by_launcher) file.mine().state.store(RankState::told_to_end, std::memory_order_release);
  file.remove();
  // At once and beside what follows: mpirun kills what is left after one second.
  std::thread farewell_thread([this] { say_farewell(); });
  const std::vector<FlightEvent> events = events_of(file.mine(), 4);
  // A rank in MPI_Finalize has nothing to report: mpirun ends the last ranks when the first one has ended
  // with an exit code.
  const bool leaving = !events.empty() && events.back().activity == Activity::finalize;
  if (file.header().ending.load() == 0 && !leaving) {
    if (by_launcher && nobody_failed())
      say_interrupted();
    else
      say_ended();
  }
  farewell_thread.join();
  // End by the signal itself, so that the launcher sees what it has asked for.
  std::signal(SIGTERM, SIG_DFL);
  sigset_t terminate;
  sigemptyset(&terminate);
  sigaddset(&terminate, SIGTERM);
  pthread_sigmask(SIG_UNBLOCK, &terminate, nullptr);
  ::pthread_kill(::pthread_self(), SIGTERM);
  ::_exit(128 + SIGTERM);
}

}  // namespace lockstep
