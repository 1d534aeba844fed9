#include "model/plan/slice_schedule.h"

#include <algorithm>
#include <map>
#include <utility>

#include "core/error.h"

namespace lockstep {
namespace {

/// Hands out slots: those of roots by position, private ones from a free list.
class SlotPool {
 public:
  explicit SlotPool(int roots) : next_(roots), roots_(roots) {}
  int take() {
    if (free_.empty()) return next_++;
    const int slot = free_.back();
    free_.pop_back();
    return slot;
  }
  void give(int slot) {
    if (slot >= roots_) free_.push_back(slot);
  }
  int count() const { return next_; }

 private:
  std::vector<int> free_;
  int next_;
  int roots_;
};

struct TreeMerge {
  Node node;
  std::int64_t left;   ///< leftmost leaf of the left child: it names the slot
  std::int64_t right;  ///< leftmost leaf of the right child
};

void merges_below(Node node, std::vector<TreeMerge>& out) {
  if (node.size() < 2) return;
  const std::int64_t middle = split_of(node);
  merges_below({node.begin, middle}, out);
  merges_below({middle, node.end}, out);
  out.push_back({node, node.begin, middle});
}

}  // namespace

SliceSchedule make_slice_schedule(std::int64_t slices, Node mine, int lanes) {
  require(lanes >= 1 && mine.begin >= 0 && mine.begin <= mine.end && mine.end <= slices,
          "make_slice_schedule: bad arguments");
  SliceSchedule schedule;
  schedule.roots = maximal_subtrees(slices, mine);
  std::map<std::int64_t, int> root_slot;
  std::vector<TreeMerge> merges;
  for (std::size_t i = 0; i < schedule.roots.size(); ++i) {
    root_slot[schedule.roots[i].begin] = static_cast<int>(i);
    merges_below(schedule.roots[i], merges);
  }
  SlotPool pool(static_cast<int>(schedule.roots.size()));
  std::map<std::int64_t, int> slot_of;
  for (std::int64_t next = mine.begin; next < mine.end;) {
    SliceSchedule::Round round;
    const auto teams = static_cast<int>(std::min<std::int64_t>(lanes, mine.end - next));
    round.teams = teams;
    round.team_size.assign(static_cast<std::size_t>(teams), 0);
    for (int lane = 0; lane < lanes; ++lane) {
      const int team = static_cast<int>(std::int64_t{lane} * teams / lanes);
      round.team_of_lane.push_back(team);
      ++round.team_size[static_cast<std::size_t>(team)];
    }
    for (int team = 0; team < teams; ++team, ++next) {
      const auto root = root_slot.find(next);
      const int slot = root != root_slot.end() ? root->second : pool.take();
      slot_of[next] = slot;
      round.work.push_back({next, team, slot, team});
    }
    // A node is complete when its last leaf is; post-order keeps children before parents.
    for (auto it = merges.begin(); it != merges.end();) {
      if (it->node.end > next) {
        ++it;
        continue;
      }
      round.merges.push_back({slot_of.at(it->left), slot_of.at(it->right)});
      it = merges.erase(it);
    }
    for (const auto& merge : round.merges) pool.give(merge.from);
    schedule.contexts = std::max(schedule.contexts, teams);
    schedule.rounds.push_back(std::move(round));
  }
  schedule.slots = pool.count();
  return schedule;
}

}  // namespace lockstep
