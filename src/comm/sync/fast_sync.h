#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/sync/sync_base.h"
#include "comm/sync/tree_kernel.h"

namespace lockstep {

/// The library's own all-reduce, bucket by bucket: this rank's subtree sums are added in order into slot 0
/// first. The order of the additions between ranks is the library's, so the result depends on the placement.
class FastSync final : public SyncBase {
 public:
  FastSync(Communicator& comm, std::int64_t elements, const GradientSyncOptions& options, Timeline* timeline);
  /// sent_bytes is that of a ring, which the library need not use.
  Traffic traffic() const override { return traffic_; }

 protected:
  bool advance() override;
  void step_begun() override;
  bool complete() const override { return completed_ == buckets(); }
  void step_completed() override;
  bool may_advance() override;
  std::int64_t pending_bucket() const override { return std::min(completed_, buckets() - 1); }

 private:
  SumProgram program_;
  SumProgram marks_program_;                         ///< one operand, which is its own sum
  std::vector<const float*> operands_;               ///< this rank's slots
  std::vector<std::unique_ptr<Request>> under_way_;  ///< by bucket
  std::vector<std::int64_t> begun_ns_;               ///< by bucket
  std::int64_t started_ = 0;  ///< collectives start in the order of buckets on all ranks
  std::int64_t completed_ = 0;
  Traffic traffic_;
};

}  // namespace lockstep
