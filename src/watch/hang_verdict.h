#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/flight_recorder.h"

namespace lockstep {

/// What is known of one rank when somebody asks whether the job hangs.
struct RankView {
  enum class Presence {
    absent,      ///< its process has not come
    present,     ///< it lives
    stopped,     ///< by a signal or a debugger
    frozen,      ///< it exists, but not even its watchdog runs
    gone,        ///< it has died without a word
    failing,     ///< it has reported an error of its own
    left,        ///< it has ended in order
    silent,      ///< its host takes connections, but nobody answers there
    unreachable  ///< its host does not answer
  };
  int rank = -1;  ///< -1: not known yet
  int local_rank = 0;
  std::string host;
  long pid = 0;  ///< 0: not known
  Presence presence = Presence::present;
  double quiet = 0;                 ///< seconds since it was last seen to make progress
  double unseen = 0;                ///< seconds for which its node was asked and told nothing of it
  int patience = 1;                 ///< of what it does; 0: endless
  FlightEvent now;                  ///< what it does; number 0: nothing
  double now_age = 0;               ///< seconds since that began
  CollectiveProgress device;        ///< what runs there by itself
  bool works = false;               ///< though `now` is a wait it does work of its own
  bool prompt = false;              ///< its watchdog runs before all ordinary threads
  std::vector<FlightEvent> events;  ///< its last ones, oldest first
  std::vector<FlightEvent> calls;   ///< its last collectives, oldest first
  std::int64_t clock_ns = 0;        ///< of its node, when it was looked at
  std::string process;              ///< absent: what runs in its place
};

/// How well another node is heard. Seconds.
struct NodeSilence {
  double age = 0;             ///< since it last answered, or since the rendezvous where it never did
  double asked = 0;           ///< for which it has been asked
  bool told = false;          ///< it has answered once
  bool host_answers = false;  ///< its host has taken a connection lately
};

/// What another node has told of a rank, as it counts now. A fresh answer counts as it was told: were its age
/// added to what it says, ranks of a host that was cut off a moment ago would be blamed for not moving,
/// before that host has been silent for long enough to be called lost.
RankView seen_from_afar(RankView told, const NodeSilence& silence, double timeout);

struct HangLimits {
  double timeout = 60;    ///< seconds; 0: nothing is a hang
  double start = 60;      ///< the same for a process that has not come, since the others have
  bool all_known = true;  ///< `ranks` are all ranks of the job; false before the rendezvous
  bool heard = true;      ///< other nodes have answered once; where they never did, little is known of them
  int size = 0;           ///< ranks of the job; 0: not known
};

/// Who is to blame, and what to tell.
struct HangReport {
  std::vector<int> culprits;  ///< indices into the views
  std::string summary;        ///< one sentence
  std::string text;           ///< the whole report; the summary is its first line. Newline at the end
};

/// The verdict over all ranks: nothing while any of them may still move on. A rank that works keeps the job
/// alive however many wait for it, as long as it makes progress; one that waits does not. It is a hang when
/// every rank has been quiet for as long as what it does may take.
///
/// To blame are those that are not there or are stopped, and those that work on without progress, for the
/// others wait for them. Where all wait, one has left a collective out: from the last collectives of each,
/// the first is looked for that is not the same for all; what most entered was right. Where there is no
/// majority, all are named.
std::optional<HangReport> judge(const std::vector<RankView>& ranks, const HangLimits& limits);

/// "0-3, 8": ascending numbers for people.
std::string ranks_text(std::vector<int> ranks);
/// "rank 5 on node3, pid 812".
std::string who(const RankView& view);
/// The last `most` events of a rank, a line each, with `indent` before it and a newline after it.
std::string events_text(const RankView& view, std::size_t most, const std::string& indent);

}  // namespace lockstep
