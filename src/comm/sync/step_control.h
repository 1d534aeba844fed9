#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace lockstep {

/// A word of flags that every rank shows to all others once a step. It travels beside the exchange of that
/// step: whoever has completed a step has heard of every other rank, so that nobody waits for a word. Ranks
/// use it to agree on what one of them alone has noticed (it was asked to stop), at the same step everywhere.
///
/// Within a group words lie in shared memory. Between groups a rank sends its word to one rank of every other
/// group, the one of its own local number (modulo the group's size), which shows it to its group; that takes
/// one step more. Allocates nothing after construction, and nothing is under way between collect() and
/// post().
class StepControl {
 public:
  /// (all)
  explicit StepControl(Communicator& comm);

  /// (all) Before a step: this rank's word for it.
  void post(std::uint64_t word);
  /// (all) After that step: the union of the words that all ranks posted lag() steps ago, the same on every
  /// rank; 0 where that was before the first. Throws CommError when a peer is known to have failed.
  std::uint64_t collect();
  /// 0: collect() tells of the step that has just ended. 1: of the one before, where several groups have
  /// several ranks.
  int lag() const { return lag_; }

 private:
  /// A word must outlive the slowest reader, who is at most two steps behind: see collect().
  static constexpr std::size_t depth = 4;
  struct alignas(64) Shown {
    std::atomic<std::uint64_t> near_step{0};  ///< the last step whose word is in `near`
    std::atomic<std::uint64_t> far_step{0};   ///< the last step whose words of other groups are in `far`
    std::array<std::uint64_t, depth> near{};
    std::array<std::uint64_t, depth> far{};
  };
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

  Shown& shown(int rank) const;
  template <class Condition>
  void wait_until(Condition&& arrived);

  Communicator& comm_;
  int lag_ = 0;
  int first_ = 0;  // ranks of this group
  int end_ = 0;
  std::unique_ptr<SharedRegion> region_;
  std::uint64_t step_ = 0;  // post() calls so far
  std::uint64_t outgoing_word_ = 0;
  std::vector<std::uint64_t> incoming_words_;
  std::vector<std::unique_ptr<PersistentRequest>> outgoing_;
  std::vector<std::unique_ptr<PersistentRequest>> incoming_;
};

}  // namespace lockstep
