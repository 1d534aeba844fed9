#include "watch/watchdog.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <pthread.h>
#include <random>
#include <sched.h>
#include <sys/signalfd.h>
#include <thread>
#include <unistd.h>

#include "core/error.h"
#include "core/text.h"
#include "core/wire.h"
#include "watch/watchdog_state.h"

namespace lockstep {
namespace {

using Presence = RankView::Presence;

/// For so many seconds a node that may know less than others lets them report first.
constexpr double courtesy_s = 5;
/// The rank whose turn it is to report may be stopped just then: after so many seconds the next one takes
/// over.
constexpr double turn_s = 2;

/// On an overloaded machine this thread may get no cpu for seconds, and other ranks then take this one for
/// lost. So it asks for the lowest real-time priority, which the system grants to root and where the limit on
/// real-time priorities allows it (ulimit -r). It needs little time.
bool take_precedence() {
  sched_param least{};
  least.sched_priority = ::sched_get_priority_min(SCHED_RR);
  return ::sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &least) == 0;
}

}  // namespace

std::optional<double> watchdog_timeout_of(const Environment& environment) {
  const char* text = environment(watchdog_timeout_variable);
  if (text == nullptr || *text == '\0') return std::nullopt;
  const auto seconds = parse_double(text);
  if (!seconds || *seconds < 0 || *seconds > 1e6)
    throw ConfigError(fmt::format("{}: \"{}\" is no number of seconds between 0 (off) and 1000000",
                                  watchdog_timeout_variable, text));
  return seconds;
}

Watchdog::Watchdog(const Environment& environment, double timeout)
    : state_(std::make_unique<State>(environment, timeout)) {
  State& s = *state_;
  sigset_t all, terminate;
  sigfillset(&all);
  sigemptyset(&terminate);
  sigaddset(&terminate, SIGTERM);
  pthread_sigmask(SIG_SETMASK, &all, &s.mask_before);
  if (s.started_by_mpirun()) {
    // The signal is read from a descriptor by the thread: a handler may not do what the report needs.
    s.signals = FileDescriptor(::signalfd(-1, &terminate, SFD_NONBLOCK | SFD_CLOEXEC));
  }
  s.thread = std::thread([&s] { s.run(); });
  pthread_setname_np(s.thread.native_handle(), "watchdog");
  pthread_sigmask(SIG_SETMASK, &s.mask_before, nullptr);
  if (s.signals) pthread_sigmask(SIG_BLOCK, &terminate, nullptr);
}

Watchdog::~Watchdog() {
  state_->stop = true;
  state_->thread.join();
  pthread_sigmask(SIG_SETMASK, &state_->mask_before, nullptr);
}

FlightRecorder& Watchdog::recorder() {
  return state_->recorder;
}

void Watchdog::set_timeout(double seconds) {
  state_->timeout = state_->forced.value_or(seconds);
}

void Watchdog::set_report_directory(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  state_->directory = path;
}

void Watchdog::set_way_on(const std::string& sentence) {
  const std::lock_guard lock(state_->mutex);
  state_->way_on = sentence;
}

void Watchdog::set_farewell(std::function<void()> farewell) {
  const std::lock_guard lock(state_->mutex);
  state_->farewell = std::move(farewell);
}

void Watchdog::failing() {
  state_->file.mine().state.store(RankState::failing, std::memory_order_release);
  state_->file.remove();
  state_->say_farewell();
}

void Watchdog::join(int rank, const std::function<std::string(const std::string&)>& broadcast_text,
                    const std::function<std::vector<std::string>(const std::string&)>& all_gather_text) {
  State& s = *state_;
  s.file.mine().rank.store(rank, std::memory_order_relaxed);
  std::random_device random;
  const std::uint64_t made = (std::uint64_t{random()} << 32 | random()) | 1;
  State::Links links;
  links.token = WireReader(broadcast_text(WireWriter().add(made).text())).get<std::uint64_t>();
  const std::uint64_t self = s.file.header().id.load();
  const std::string mine =
      WireWriter().add(self).add(s.host).add(std::int64_t{getpid()}).add(s.link.endpoints()).text();
  std::map<std::uint64_t, std::size_t> known;
  const std::vector<std::string> all = all_gather_text(mine);
  for (std::size_t r = 0; r < all.size(); ++r) {
    WireReader in(all[r]);
    RankView view;
    const auto node = in.get<std::uint64_t>();
    view.host = in.get<std::string>();
    view.pid = in.get<long>();
    const auto endpoints = in.get<std::string>();
    in.finish();
    if (node == self) continue;
    const auto [at, is_new] = known.try_emplace(node, links.nodes.size());
    if (is_new) {
      links.nodes.emplace_back().id = node;
      links.ranks.emplace_back();
    }
    view.rank = static_cast<int>(r);
    links.nodes[at->second].processes.push_back(SideLink::parse(endpoints));
    links.ranks[at->second].push_back(std::move(view));
  }
  const bool others = !links.nodes.empty();
  {
    const std::lock_guard lock(s.mutex);
    s.joined = std::move(links);
  }
  // Each node must be heard once before it can be called lost: one that was never heard may be well behind a
  // firewall.
  for (int i = 0; others && s.limit() > 0 && i < 100; ++i) {
    if (s.file.header().reached.load(std::memory_order_relaxed) != 0) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

void Watchdog::State::take_links() {
  const std::lock_guard lock(mutex);
  if (!joined) return;
  remote = std::move(joined->ranks);
  joined_ns = FlightRecorder::now();
  link.join(joined->token, file.header().id.load(), std::move(joined->nodes),
            [this] { return pack(watch.views(FlightRecorder::now())); });
  watch.all_have_come();
  joined.reset();
}

void Watchdog::State::run() {
  file.mine().prompt.store(take_precedence() ? 1 : 0, std::memory_order_relaxed);
  while (!stop) {
    take_links();
    const bool asking = link.joined() && link.nodes() > 0 && file.header().reached.load() == 0;
    link.pump(asking ? 20 : period_ms(), signals ? signals.get() : -1);
    file.mine().watch_beats.fetch_add(1, std::memory_order_relaxed);
    recorder.look_at_device();
    const std::int64_t now = FlightRecorder::now();
    watch.look(now, limit());
    if (link.ended() || file.header().ending.load(std::memory_order_acquire) == 2) leave();
    if (signals) {
      signalfd_siginfo info;
      if (::read(signals.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info))
        terminated(static_cast<long>(info.ssi_pid));
    }
    ask_nodes(now);
    look(now);
  }
}

void Watchdog::State::ask_nodes(std::int64_t now) {
  if (!link.joined() || limit() <= 0) return;
  // One process of the node, the lowest that is alive, asks for all of it.
  for (int i = 0; i < file.own(); ++i) {
    if (file.slot(i).state.load(std::memory_order_acquire) != RankState::running || !watch.alive(i)) continue;
    asks_since_ns = 0;
    return;
  }
  if (asks_since_ns == 0) asks_since_ns = now;
  for (std::size_t node = 0; node < link.nodes(); ++node)
    if (link.heard(node).at_ns != 0) file.header().reached.store(1, std::memory_order_relaxed);
  // Until a node has answered, its silence may mean a firewall: ask often, to know soon.
  const bool reached = file.header().reached.load(std::memory_order_relaxed) != 0;
  const double every_s = reached ? std::clamp(limit() / 10, 0.1, 1.0) : 0.1;
  if (static_cast<double>(now - asked_ns) * 1e-9 < every_s) return;
  asked_ns = now;
  for (std::size_t node = 0; node < link.nodes(); ++node) link.ask(node);
}

void Watchdog::State::add_remote(std::vector<RankView>& views, std::size_t node, std::int64_t now) {
  const SideLink::Heard& heard = link.heard(node);
  std::vector<RankView> told = heard.at_ns == 0 ? std::vector<RankView>{} : unpack_views(heard.answer);
  NodeSilence silence;
  silence.age = static_cast<double>(now - (heard.at_ns == 0 ? joined_ns : heard.at_ns)) * 1e-9;
  // A process that has just taken over the asking has not waited for an answer yet.
  silence.asked = asks_since_ns == 0 ? 0 : static_cast<double>(now - asks_since_ns) * 1e-9;
  silence.told = !told.empty();
  // The host has taken a connection lately, and after its last answer.
  silence.host_answers = heard.host_ns > heard.at_ns &&
                         static_cast<double>(now - heard.host_ns) * 1e-9 < std::min(5.0, limit() / 2);
  for (const RankView& known : remote[node]) {
    const auto at =
        std::find_if(told.begin(), told.end(), [&](const RankView& v) { return v.rank == known.rank; });
    views.push_back(seen_from_afar(at == told.end() ? known : *at, silence, limit()));
  }
}

std::vector<RankView> Watchdog::State::all_views(std::int64_t now) {
  std::vector<RankView> views = watch.views(now);
  for (std::size_t node = 0; node < link.nodes(); ++node) add_remote(views, node, now);
  std::stable_sort(views.begin(), views.end(), [](const RankView& a, const RankView& b) {
    return (a.rank < 0 ? 1 << 30 : a.rank) < (b.rank < 0 ? 1 << 30 : b.rank);
  });
  return views;
}

bool Watchdog::State::my_turn(const std::vector<RankView>& views, double since) const {
  const int own = file.own() >= 0 ? const_cast<State*>(this)->file.mine().rank.load() : 0;
  int before = 0;
  for (const RankView& v : views)
    if (v.presence == Presence::present && v.rank >= 0 && v.rank < own) ++before;
  return since >= turn_s * std::min(before, 4);
}

void Watchdog::State::look(std::int64_t now) {
  const std::uint32_t ending = file.header().ending.load(std::memory_order_acquire);
  if (ending == 1) {
    // Another process is making the report. If it is stopped meanwhile, the job ends without it.
    if (ending_ns == 0) ending_ns = now;
    if (static_cast<double>(now - ending_ns) * 1e-9 > 2 * courtesy_s) leave();
    return;
  }
  HangLimits limits;
  limits.timeout = limit();
  limits.start = start_limit();
  limits.all_known = alone() || link.joined();
  limits.size = launcher ? launcher->size : 1;
  limits.heard = link.nodes() == 0 || file.header().reached.load(std::memory_order_relaxed) != 0;
  if (limits.timeout <= 0 || !watch.may_hang(limits.timeout, limits.start)) {
    hang_ns = 0;
    return;
  }
  const std::vector<RankView> views = all_views(now);
  const std::optional<HangReport> verdict = judge(views, limits);
  if (!verdict) {
    hang_ns = 0;
    return;
  }
  if (hang_ns == 0) hang_ns = now;
  double since = static_cast<double>(now - hang_ns) * 1e-9;
  // All ranks of this node wait for one of a node that is not known yet: that node can say more, so it goes
  // first.
  if (!limits.all_known && verdict->culprits.empty()) since -= courtesy_s;
  if (since < 0 || !my_turn(views, since)) return;
  std::uint32_t nobody = 0;
  if (!file.header().ending.compare_exchange_strong(nobody, 1)) return;
  report(*verdict, views);
  link.tell_end(500);
  leave();
}

}  // namespace lockstep
