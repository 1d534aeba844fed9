#pragma once

#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace lockstep {

/// What two ranks measured between them.
struct PairProbe {
  int a = 0;
  int b = 0;                    ///< a < b
  double latency = 0;           ///< seconds of half a round trip of 8 bytes: the shortest of many
  double bytes_per_second = 0;  ///< one way, of long messages: the best of a few
};

/// How far a rank's clock is from that of rank 0: offset +- uncertainty, in seconds. The time that rank 0
/// sees half-way through a round trip is the rank's own time, but for at most half the round trip (Cristian
/// 1989).
struct ClockProbe {
  double offset = 0;
  double uncertainty = 0;
};

/// The pairs to measure among `ranks`: all of them, or where they are more than `limit` a sample of about
/// that many: each rank with the next one as far as that goes, then others spread over all. Ascending, no
/// pair twice.
std::vector<std::pair<int, int>> pairs_to_probe(int ranks, int limit);

/// (all) Measures one pair after the other, so that they do not disturb each other; whoever is not in the
/// pair waits without keeping a cpu busy. `pairs` and `long_bytes` alike on all ranks. The result is known on
/// rank 0 alone.
std::vector<PairProbe> probe_pairs(Communicator& comm, const std::vector<std::pair<int, int>>& pairs,
                                   std::size_t long_bytes);

/// (all) Every rank's clock against that of rank 0, by rank. The result is known on rank 0 alone.
std::vector<ClockProbe> probe_clocks(Communicator& comm);

}  // namespace lockstep
