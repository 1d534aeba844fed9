#pragma once

#include <cstdint>
#include <vector>

#include "core/numerics/tree.h"

namespace lockstep {

/// Which slice of a rank is computed when, into which gradient slot, and what is then added to what. Pure
/// data, made once from (S, the rank's slices, lanes); nothing in it decides bits, since slots are added
/// along the canonical tree whatever the schedule.
struct SliceSchedule {
  struct Merge {
    int into;  ///< slot: the left operand and the result
    int from;  ///< slot: the right operand, free afterwards
  };
  struct Work {
    std::int64_t slice;  ///< global number
    int team;            ///< which team of lanes computes it
    int slot;
    int context;  ///< which activation arena it uses (= team)
  };
  struct Round {
    std::vector<Work> work;  ///< at most one per team, side by side
    int teams = 1;
    std::vector<int> team_of_lane;  ///< -1: the lane idles in this round
    std::vector<int> team_size;
    std::vector<Merge> merges;  ///< in order, after every work of the round, per range of elements
  };
  std::vector<Round> rounds;
  std::vector<Node> roots;  ///< the maximal subtrees; slot i < roots.size() ends as the sum of roots[i]
  int slots = 0;            ///< roots first, then private ones
  int contexts = 0;
};

/// (one) The schedule of slices [mine.begin, mine.end) of `slices` on `lanes` lanes. Rounds take as many
/// slices side by side as there are lanes; where fewer are left, lanes share a slice as a team.
SliceSchedule make_slice_schedule(std::int64_t slices, Node mine, int lanes);

}  // namespace lockstep
