#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "data/epoch_order.h"
#include "data/loader.h"
#include "trainer/guard/slice_probe.h"

namespace lockstep {

/// Who computes which slice a second time: a pure function of how many checks there have been.
struct RecomputePlan {
  std::int64_t slice = 0;
  int owner = 0;    ///< computes it in the step
  int checker = 0;  ///< computes it again; the owner itself where there is one rank
};
/// Check number `check` (from 0) of a batch on `ranks` ranks: slices take turns, and so do the other ranks.
/// Slices without samples are passed over.
RecomputePlan recompute_plan(const EpochOrder& order, const BatchRange& batch, std::int64_t check, int ranks);

/// What the ranks have said about one slice: hashes of its gradient.
struct RecomputeVotes {
  std::uint64_t owner = 0;           ///< what the owner put into the step
  std::uint64_t checker = 0;         ///< what the checker computed
  std::vector<std::uint64_t> again;  ///< what every rank computed afterwards
};
/// Who was wrong.
struct RecomputeFinding {
  struct Culprit {
    int rank = 0;
    bool again = false;  ///< also when it computed the slice once more
  };
  std::vector<Culprit> culprits;
  bool decided = false;  ///< false: the culprits are those who disagree, and nobody can tell who is right
  int reference =
      -1;  ///< another rank than the first culprit, whose last result is right; undecided: the checker
};
/// Owner and checker differ; every rank has computed the slice again. What most ranks then say is right, if
/// two at least say it and no other result has as many. Else, of two, the one that contradicts itself is
/// wrong, and one rank alone is held to its last result.
RecomputeFinding judge_recompute(const RecomputeVotes& votes, int owner, int checker);

/// Looks for arithmetic that fails in silence: every so many steps one slice is computed a second time, on
/// another rank, and its gradient is held against what the owner really put into the step, before the step is
/// applied.
class RecomputeCheck {
 public:
  struct Options {
    std::int64_t every = 0;
    std::uint64_t seed = 1;
    std::shared_ptr<const Dataset> data;
    std::vector<std::shared_ptr<const FieldReader>> fields;  ///< as the training's loader has them
    std::vector<std::string> hosts;                          ///< of every rank
    SliceGradientListener* listener = nullptr;               ///< for tests: sees what the probe computes
  };
  /// `order` and `comm` must outlive it.
  RecomputeCheck(const EpochOrder& order, Options options, Communicator& comm);

  /// The slice whose gradient the step with number `step` must keep; -1: none.
  std::int64_t slice_of(std::int64_t step, const BatchRange& batch) const;
  /// (all) In a step for which slice_of() named a slice, before the update. `kept`: the owner's gradient of
  /// that slice, as it went into the step; on other ranks unused. Throws CommError (exit 4), alike on every
  /// rank, when the results differ.
  void run(std::int64_t step, const BatchRange& batch, std::span<const float> parameters,
           std::span<const float> kept, SliceProbe& probe);

 private:
  std::uint64_t compute(const Batch& batch, std::span<const float> parameters, std::int64_t step,
                        SliceProbe& probe) const;
  std::unique_ptr<Loader> loader_of(std::int64_t slice, const BatchRange& batch) const;
  std::string name(int rank) const;
  std::string verdict_text(const RecomputeFinding& finding) const;
  std::string memory_text(std::span<const float> parameters) const;

  const EpochOrder& order_;
  Options options_;
  Communicator& comm_;
};

}  // namespace lockstep
