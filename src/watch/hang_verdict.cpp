#include "watch/hang_verdict.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <tuple>

#include "core/text.h"

namespace lockstep {
namespace {

using Presence = RankView::Presence;

/// What must be equal for two ranks to be in one and the same collective.
auto signature(const FlightEvent& e) {
  return std::tuple(e.activity, e.step, e.bytes);
}

/// One place where ranks are. Ranks in one exchange may be at different buckets.
struct Place {
  std::uint64_t call;
  Activity activity;
  std::int64_t step;
  std::int64_t bucket;
  std::uint64_t bytes;
  bool operator<(const Place& other) const {
    return std::tie(call, activity, step, bucket, bytes) <
           std::tie(other.call, other.activity, other.step, other.bucket, other.bytes);
  }
};

/// The device waits in a collective, whatever the host does meanwhile.
bool waits_on_device(const RankView& v) {
  return v.device.inside() && !waits(v.now.activity);
}

Place place_of(const RankView& v) {
  if (waits_on_device(v)) return {v.device.entered, v.now.activity, v.now.step, v.device.bucket, 0};
  return {v.now.call, v.now.activity, v.now.step, v.now.bucket, v.now.bytes};
}

bool is_waiting(const RankView& v) {
  return v.presence == Presence::present && ((waits(v.now.activity) && !v.works) || v.device.inside());
}

/// For so many seconds a watchdog without real-time priority may get no cpu on a busy host.
constexpr double busy_host_s = 10;

/// How many seconds MPI's start may take while no rank is missing or stopped: long on a big or busy machine.
double patience_of_start(const HangLimits& limits) {
  constexpr int small_job = 256;  // ranks
  constexpr double busy = 30;
  const double most = limits.timeout * 10;
  if (limits.size < 1 || limits.size > small_job) return most;
  return std::min(most, std::max(limits.timeout * 2, busy));
}

bool is_missing(const RankView& v) {
  return v.presence != Presence::present && v.presence != Presence::left && v.presence != Presence::failing;
}

/// Whether this rank has had all the time that it may take without progress. `missing`: some rank is missing.
bool due(const RankView& v, const HangLimits& limits, bool missing) {
  switch (v.presence) {
    case Presence::absent:
      return v.quiet >= limits.start;
    case Presence::left:
      return true;
    case Presence::failing:
      // It ends the job with a code of its own. Five seconds later that has got stuck, and the watchdog does
      // it.
      return v.quiet >= limits.timeout + 5;
    case Presence::stopped:
    case Presence::frozen:
    case Presence::gone:
      return v.quiet >= limits.timeout;
    case Presence::silent:
      // Its ranks may be well, while their watchdogs get no cpu on an overloaded machine.
      return v.unseen >= limits.timeout * (limits.heard ? 1 : 10) + (v.prompt ? 0 : busy_host_s);
    case Presence::unreachable:
      // A node that never answered may be well behind a firewall.
      return v.unseen >= limits.timeout * (limits.heard ? 1 : 10);
    case Presence::present:
      break;
  }
  // Of ranks of other hosts nothing is known before the rendezvous.
  const bool meets = v.now.activity == Activity::rendezvous && !limits.all_known;
  if (v.now.activity == Activity::mpi_init || meets)
    return v.quiet >= (missing ? limits.timeout : patience_of_start(limits));
  return v.patience > 0 && v.quiet >= limits.timeout * v.patience;
}

std::string where(const RankView& v) {
  if (waits_on_device(v))
    return describe(v.device) + (v.now.number == 0 ? "" : fmt::format(", the host in {}", describe(v.now)));
  if (v.now.number == 0) return "between phases";
  return describe(v.now);
}

std::string entered(const RankView& v) {
  if (v.now.number == 0 && v.events.empty()) return "nothing is known of what it did";
  if (v.now.number == 0) {
    const FlightEvent& last = v.events.back();
    return fmt::format("was last in {}", describe(last));
  }
  return fmt::format("entered {}, {} ago", describe(v.now), human_duration(v.now_age));
}

std::string state_text(const RankView& v) {
  switch (v.presence) {
    case Presence::absent:
      return v.process.empty() ? "has not started" : "has not started: " + v.process;
    case Presence::present:
      return is_waiting(v) ? "waits" : "has not moved on since";
    case Presence::stopped:
      return "is stopped (by a signal or a debugger)";
    case Presence::frozen:
      return "does not run, not even its watchdog";
    case Presence::gone:
      return "has died without a word";
    case Presence::failing:
      return "has failed and does not get out";
    case Presence::left:
      return "has ended";
    case Presence::silent:
      return fmt::format("has not answered for {}, though its host takes connections",
                         human_duration(v.unseen));
    case Presence::unreachable:
      return fmt::format("is lost: its host has not answered for {}", human_duration(v.unseen));
  }
  return "";
}

/// The sentence about one culprit.
std::string blame(const RankView& v) {
  if (v.presence == Presence::absent) return fmt::format("{} {}", who(v), state_text(v));
  if (v.presence == Presence::present)
    return fmt::format("{}: {}, and {}", who(v), entered(v), state_text(v));
  return fmt::format("{}: {}; {}", who(v), state_text(v), entered(v));
}

/// "7 ranks wait in bucket 12 of step 840 (0-4, 6, 7)", most ranks first.
std::string waiting_text(const std::vector<RankView>& ranks, const std::vector<int>& but) {
  std::map<Place, std::vector<int>> places;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (!is_waiting(ranks[i]) || std::count(but.begin(), but.end(), static_cast<int>(i)) > 0) continue;
    places[place_of(ranks[i])].push_back(static_cast<int>(i));
  }
  std::vector<std::vector<int>> groups;
  groups.reserve(places.size());
  for (auto& [place, members] : places) groups.push_back(members);
  std::stable_sort(groups.begin(), groups.end(),
                   [](const auto& a, const auto& b) { return a.size() > b.size(); });
  std::string text;
  for (const std::vector<int>& members : groups) {
    std::vector<int> numbers;
    numbers.reserve(members.size());
    for (const int i : members) numbers.push_back(ranks[static_cast<std::size_t>(i)].rank);
    text += fmt::format("{}{} rank{} wait{} in {} ({})", text.empty() ? "" : ", ", members.size(),
                        members.size() == 1 ? "" : "s", members.size() == 1 ? "s" : "",
                        where(ranks[static_cast<std::size_t>(members[0])]), ranks_text(numbers));
  }
  return text;
}

const FlightEvent* call_of(const RankView& v, std::uint64_t call) {
  const auto at =
      std::find_if(v.calls.begin(), v.calls.end(), [&](const FlightEvent& e) { return e.call == call; });
  return at == v.calls.end() ? nullptr : &*at;
}

/// Everybody waits. Finds the first collective that was not the same for all of `members`.
struct Mismatch {
  std::uint64_t call = 0;
  std::vector<int> minority;  ///< or all, where there is no majority
  bool majority = false;
  FlightEvent right;  ///< what most entered
};
std::optional<Mismatch> find_mismatch(const std::vector<RankView>& ranks, const std::vector<int>& members) {
  std::uint64_t first = 1, last = 0;
  for (const int i : members) {
    const auto& calls = ranks[static_cast<std::size_t>(i)].calls;
    if (calls.empty()) return std::nullopt;
    first = std::max(first, calls.front().call);
    last = std::max(last, calls.back().call);
  }
  for (std::uint64_t call = first; call <= last; ++call) {
    std::map<decltype(signature({})), std::vector<int>> kinds;
    std::map<decltype(signature({})), std::size_t> voters;
    for (const int i : members)
      if (const FlightEvent* e = call_of(ranks[static_cast<std::size_t>(i)], call))
        kinds[signature(*e)].push_back(i);
    if (kinds.size() < 2) continue;
    // A rank that has not come to this call yet is counted with those whose collective belongs to its step.
    for (const int i : members) {
      const RankView& v = ranks[static_cast<std::size_t>(i)];
      if (v.calls.back().call >= call) continue;
      int fitting = 0;
      for (const auto& [kind, who_did] : kinds) fitting += std::get<1>(kind) == v.now.step ? 1 : 0;
      if (fitting != 1) continue;
      for (auto& [kind, who_did] : kinds)
        if (std::get<1>(kind) == v.now.step) ++voters[kind];
    }
    Mismatch found;
    found.call = call;
    const auto votes = [&](const auto& k) { return k.second.size() + voters[k.first]; };
    const auto most = std::max_element(kinds.begin(), kinds.end(),
                                       [&](const auto& a, const auto& b) { return votes(a) < votes(b); });
    const auto as_many =
        std::count_if(kinds.begin(), kinds.end(), [&](const auto& k) { return votes(k) == votes(*most); });
    found.majority = as_many == 1;
    for (const auto& [kind, who_did] : kinds)
      if (!found.majority || kind != most->first)
        found.minority.insert(found.minority.end(), who_did.begin(), who_did.end());
    found.right = *call_of(ranks[static_cast<std::size_t>(most->second[0])], call);
    std::sort(found.minority.begin(), found.minority.end());
    return found;
  }
  return std::nullopt;
}

std::string join(const std::vector<std::string>& parts, const char* between) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : between) + part;
  return text;
}

/// Nobody is missing, yet nobody moves: fills in who is to blame, and the sentence.
void blame_among_waiting(const std::vector<RankView>& ranks, const HangLimits& limits, HangReport& report) {
  std::vector<int> members;
  for (std::size_t i = 0; i < ranks.size(); ++i)
    if (is_waiting(ranks[i])) members.push_back(static_cast<int>(i));
  const auto at = [&](int i) -> const RankView& { return ranks[static_cast<std::size_t>(i)]; };
  const bool starting = std::all_of(members.begin(), members.end(),
                                    [&](int i) { return at(i).now.activity == Activity::mpi_init; });
  if (starting) {
    std::vector<int> others;
    for (int rank = 0; rank < limits.size; ++rank)
      if (std::none_of(ranks.begin(), ranks.end(), [&](const RankView& v) { return v.rank == rank; }))
        others.push_back(rank);
    report.summary = fmt::format(
        "{}: {} of other hosts, or {} launcher, {} not come; nothing is known of them before the rendezvous",
        waiting_text(ranks, {}),
        others.empty()       ? std::string("ranks")
        : others.size() == 1 ? fmt::format("rank {}", others[0])
                             : fmt::format("one or more of the ranks {}", ranks_text(others)),
        others.size() == 1 ? "its" : "their", others.size() == 1 ? "has" : "have");
    return;
  }
  if (const auto mismatch = find_mismatch(ranks, members)) {
    report.culprits = mismatch->minority;
    std::vector<std::string> parts;
    for (const int i : mismatch->minority) {
      const FlightEvent did = *call_of(at(i), mismatch->call);
      std::string part = fmt::format("{}: entered {}", who(at(i)), describe(did));
      if (did.call != at(i).now.call) part += fmt::format(", and waits in {}", where(at(i)));
      parts.push_back(part);
    }
    if (mismatch->majority) {
      report.summary =
          fmt::format("{} as collective {}, where the others entered {}: a collective was left out; {}",
                      join(parts, "; "), mismatch->call, describe(mismatch->right),
                      waiting_text(ranks, mismatch->minority));
    } else {
      report.summary = fmt::format(
          "{}: these ranks wait for each other in different places since collective {}; one of them has left "
          "a "
          "collective out",
          join(parts, "; "), mismatch->call);
      if (const std::string others = waiting_text(ranks, mismatch->minority); !others.empty())
        report.summary += "; " + others;
    }
    return;
  }
  // A rank that has entered fewer collectives than the others is the one that they wait for.
  const bool on_device =
      std::all_of(members.begin(), members.end(), [&](int i) { return waits_on_device(at(i)); });
  const auto progress_of = [&](int i) { return on_device ? at(i).device.entered : at(i).now.call; };
  std::uint64_t furthest = 0;
  for (const int i : members) furthest = std::max(furthest, progress_of(i));
  for (const int i : members)
    if (progress_of(i) < furthest && (on_device || !waits_on_device(at(i)))) report.culprits.push_back(i);
  if (!report.culprits.empty()) {
    std::vector<std::string> parts;
    for (const int i : report.culprits)
      parts.push_back(fmt::format("{}: waits in {}", who(at(i)), where(at(i))));
    report.summary =
        fmt::format("{}, behind the others; {}", join(parts, "; "), waiting_text(ranks, report.culprits));
    return;
  }
  report.summary = fmt::format("{} and all have come: a message was lost{}", waiting_text(ranks, {}),
                               limits.all_known ? "" : ", or a rank of another host has not come");
}

std::string table(const std::vector<RankView>& ranks) {
  std::string text;
  for (const RankView& v : ranks) {
    text += fmt::format("  {:<28} {}", who(v), where(v));
    if (v.now.number != 0) text += fmt::format(", for {}", human_duration(v.now_age));
    if (v.now.call != 0) text += fmt::format(", collective {}", v.now.call);
    if (v.presence != Presence::present || !is_waiting(v)) text += "; " + state_text(v);
    text += '\n';
  }
  return text;
}

}  // namespace

std::string ranks_text(std::vector<int> ranks) {
  std::sort(ranks.begin(), ranks.end());
  return number_list_text(ranks);
}

std::string who(const RankView& v) {
  std::string text = v.rank >= 0 ? fmt::format("rank {}", v.rank)
                                 : fmt::format("the rank with local number {}", v.local_rank);
  text += " on " + v.host;
  if (v.pid > 0) text += fmt::format(", pid {}", v.pid);
  return text;
}

std::string events_text(const RankView& v, std::size_t most, const std::string& indent) {
  std::string text;
  const std::size_t n = std::min(most, v.events.size());
  for (std::size_t i = v.events.size() - n; i < v.events.size(); ++i) {
    const FlightEvent& e = v.events[i];
    const double ago = static_cast<double>(v.clock_ns - e.begin_ns) * 1e-9;
    text +=
        fmt::format("{}event {}: {}; entered {} ago, ", indent, e.number, describe(e), human_duration(ago));
    text += e.end_ns > 0
                ? fmt::format("took {}\n", human_duration(static_cast<double>(e.end_ns - e.begin_ns) * 1e-9))
                : std::string("not left\n");
  }
  return text;
}

RankView seen_from_afar(RankView v, const NodeSilence& silence, double timeout) {
  v.unseen = std::min(silence.age, silence.asked);
  v.now_age += silence.age;
  v.clock_ns += static_cast<std::int64_t>(silence.age * 1e9);
  const bool fresh = silence.told && silence.age < std::clamp(timeout / 2, 0.5, 3.0);
  if (fresh) return v;
  v.quiet += silence.age;
  if (v.presence != Presence::left)
    v.presence = silence.host_answers ? Presence::silent : Presence::unreachable;
  return v;
}

std::optional<HangReport> judge(const std::vector<RankView>& ranks, const HangLimits& limits) {
  if (limits.timeout <= 0) return std::nullopt;
  bool somebody = false;
  const bool missing = std::any_of(ranks.begin(), ranks.end(), is_missing);
  for (const RankView& v : ranks) {
    if (!due(v, limits, missing)) return std::nullopt;
    somebody = somebody || v.presence == Presence::present;
  }
  if (!somebody) return std::nullopt;

  HangReport report;
  for (std::size_t i = 0; i < ranks.size(); ++i)
    if (!is_waiting(ranks[i])) report.culprits.push_back(static_cast<int>(i));
  if (report.culprits.empty()) {
    blame_among_waiting(ranks, limits, report);
  } else {
    // A rank that has ended in order is not to blame where another one is stopped, lost or dead.
    const bool worse = std::any_of(report.culprits.begin(), report.culprits.end(), [&](int i) {
      return ranks[static_cast<std::size_t>(i)].presence != Presence::left;
    });
    if (worse)
      std::erase_if(report.culprits,
                    [&](int i) { return ranks[static_cast<std::size_t>(i)].presence == Presence::left; });
    constexpr std::size_t most_named = 8;
    std::vector<std::string> parts;
    for (const int i : report.culprits) {
      if (parts.size() == most_named) break;
      parts.push_back(blame(ranks[static_cast<std::size_t>(i)]));
    }
    if (report.culprits.size() > most_named)
      parts.push_back(fmt::format("and {} more", report.culprits.size() - most_named));
    const std::string waiting = waiting_text(ranks, {});
    report.summary = join(parts, "; ") + (waiting.empty() ? "" : "; " + waiting);
  }
  report.text = report.summary + '\n' + table(ranks);
  for (const int i : report.culprits) {
    const RankView& v = ranks[static_cast<std::size_t>(i)];
    if (v.events.empty()) continue;
    report.text += fmt::format("  the last events of {}:\n{}", who(v), events_text(v, 5, "    "));
  }
  return report;
}

}  // namespace lockstep
