#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "comm/mpi/request_chain.h"
#include "comm/sync/sync_base.h"
#include "comm/sync/tree_kernel.h"
#include "device/memory.h"

namespace lockstep {

/// The canonical sum. For every bucket, in order, once all ranks of this group have it ready:
///  A  this rank sums its group's subtrees of the chunks that it carries and sends them to their owners;
///  B  once the other groups' subtree sums of its own chunk have come, it completes the tree in place, in its
///     own slot 0, which for this chunk nobody else reads; unless sharded it sends the totals to the
///     carriers;
///  C  unless sharded, the carrier receives the totals into its own slot 0, from where its group reads them.
class OrderedSync final : public SyncBase {
 public:
  OrderedSync(Communicator& comm, std::int64_t elements, const GradientSyncOptions& options,
              Timeline* timeline);
  Traffic traffic() const override { return traffic_; }

 protected:
  bool advance() override;
  void step_begun() override;
  bool complete() const override;
  void step_completed() override;
  bool may_advance() override;
  std::int64_t pending_bucket() const override { return std::min(recorded_, buckets() - 1); }

 private:
  /// The chunk of this rank in one bucket. Empty ranges have no operands.
  struct Own {
    Range range;
    std::vector<const float*> operands;  ///< each at range.begin, in the order of the tree
    double* marks = nullptr;             ///< of its blocks, in this rank's window
    std::size_t incoming_end = 0;        ///< numbers of the messages of this and all earlier buckets
    std::size_t total_out_end = 0;
  };
  /// A chunk of another group's rank that this rank deals with for its group.
  struct Carried {
    std::int64_t bucket = 0;
    int owner = 0;
    Range range;
    std::vector<float*> sums;  ///< per subtree of the group, at range.begin; null: it lies in a slot already
    std::size_t outgoing_end = 0;
    std::size_t total_in_end = 0;
  };
  /// One subtree of this group and the slots that it is made of.
  struct GroupSubtree {
    SumProgram program;
    std::vector<const float*> operands;  ///< whole slots
  };

  void plan_own();
  void plan_carried();
  void plan_marks();
  void plan_totals();
  void count_traffic();
  bool group_ready(std::int64_t b);
  bool drive_messages();
  bool carry_piece();
  bool reduce_piece();
  void record_completed();

  SumProgram program_;
  std::vector<GroupSubtree> group_subtrees_;
  std::vector<Own> own_;                  ///< by bucket
  std::vector<Carried> carried_;          ///< in the order of buckets
  std::vector<std::size_t> carried_end_;  ///< by bucket
  HostBuffer received_;                   ///< subtree sums of other groups for the own chunks
  HostBuffer scratch_;                    ///< subtree sums of this group for the carried chunks
  RequestChain incoming_, outgoing_, total_in_, total_out_, marks_in_, marks_out_;

  // Where this rank is in the step.
  std::int64_t ready_bucket_ = 0;       ///< A: the bucket it is at
  std::size_t carried_next_ = 0;        ///< A: the carried chunk it is at
  std::int64_t carried_at_ = 0;         ///< A: elements of it that are done
  std::int64_t reduce_bucket_ = 0;      ///< B: the bucket it is at
  std::int64_t reduce_at_ = 0;          ///< B: elements of it that are done
  std::size_t totals_awaited_ = 0;      ///< C: carried chunks whose subtree sums have left
  std::int64_t recorded_ = 0;           ///< buckets whose exchange has been recorded
  int last_missing_ = 0;                ///< the rank that was last found not to be ready
  std::vector<std::int64_t> begun_ns_;  ///< by bucket: first work on it

  /// Blocks of marks: where those of each rank's chunks begin in its window.
  struct MarksPart {
    Range range;         ///< elements
    const double* from;  ///< in the window of whoever holds them in this group
  };
  std::vector<MarksPart> marks_parts_;
  Traffic traffic_;
};

}  // namespace lockstep
