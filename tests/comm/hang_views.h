#pragma once

#include <string>
#include <vector>

#include "watch/hang_verdict.h"

namespace lockstep::test {

// Ranks as the judge of a hang sees them.

inline FlightEvent event(Activity activity, std::int64_t step, std::uint64_t call = 0,
                         std::int64_t bucket = -1, std::uint64_t bytes = 0) {
  FlightEvent e;
  e.number = 1;
  e.activity = activity;
  e.step = step;
  e.call = call;
  e.bucket = bucket;
  e.bytes = bytes;
  e.begin_ns = 1'000'000'000;
  return e;
}

inline RankView rank(int number, const FlightEvent& now, double quiet) {
  RankView v;
  v.rank = number;
  v.local_rank = number;
  v.host = "node" + std::to_string(number / 4);
  v.pid = 800 + number;
  v.quiet = quiet;
  v.now = now;
  v.now_age = quiet;
  v.patience = patience_of(now.activity);
  v.clock_ns = 70'000'000'000;
  v.events = {now};
  if (now.call > 0) v.calls = {now};
  return v;
}

/// Eight ranks that have waited in bucket 12 of step 840 for a minute.
inline std::vector<RankView> eight_waiting(double quiet = 61) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 8; ++r) ranks.push_back(rank(r, event(Activity::exchange, 840, 5000, 12, 4096), quiet));
  return ranks;
}

inline const HangLimits minute{60, 75, true, true};

}  // namespace lockstep::test
