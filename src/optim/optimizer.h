#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/range.h"
#include "device/memory.h"
#include "model/graph/flat_layout.h"
#include "optim/optimizer_kernels.h"
#include "optim/options.h"
#include "optim/parameter_norms.h"
#include "optim/parameter_sets.h"

namespace lockstep {

/// What a step tells the optimizer: equal on every rank.
struct UpdateScalars {
  double lr = 0;              ///< of this step
  double inverse_weight = 1;  ///< 1 / weight of the loss over the global batch: totals of gradients are sums
  double clip_scale = 1;      ///< see clip_scale()
  std::int64_t step = 0;      ///< updates made before this one
  double inverse_count = 1;   ///< 1 / samples in the global batch: totals of statistics are sums over them
};

/// An optimizer rule over the flat buffers, in one pass per segment. The formulas stand in optim/rules/, in
/// float32 with factors that are computed in float64 and rounded once; what they call the mean gradient is
/// s = total * inverse_weight * clip_scale. Besides:
///   statistics  p = (1 - m) p + m (total * inverse_count), m the segment's momentum
/// The result does not depend on how a shard is cut into pieces, nor on who updates which.
///
/// State is kept for the ranges of one shard only. update() and the readers of state may run on several lanes
/// at once for disjoint ranges; they allocate nothing.
class Optimizer {
 public:
  /// `layout` is copied. `shard`: ranges of [0, layout.elements) that do not overlap, in any order; may be
  /// empty.
  Optimizer(const OptimizerOptions& options, const FlatLayout& layout, std::span<const Range> shard);

  /// Once a step, on every rank, before update(): computes the factors.
  void begin_step(const UpdateScalars& scalars);
  /// As begin_step() computed them, by set (optim/parameter_sets.h).
  std::span<const UpdateFactors> factors() const { return factors_; }
  const ParameterSets& sets() const { return sets_; }

  /// Whether the rule needs the norms of parameters. Then, between begin_step() and update(), every lane
  /// calls measure_share(), the ranks bring the sums together (those of ParameterNorms::sums_in() their
  /// shards), and take_norms() is called once.
  bool needs_norms() const { return measure_ != nullptr; }
  const ParameterNorms& norms() const { return norms_; }
  /// Writes the two sums of every piece that `totals` covers; the state may move. Views are cut as for
  /// sum_squares(). `sums` has norms().sums() entries.
  void measure_share(std::span<const TotalView> totals, std::span<float> parameters, std::span<double> sums,
                     int lane, int lanes);
  /// From all sums the factor of each parameter.
  void take_norms(std::span<const double> sums);
  /// As take_norms() found them, by segment in ascending order; 1 of what is not adapted.
  std::span<const float> trusts() const { return trusts_; }
  /// Updates the elements of `piece`, which lies in the shard. gradient[0] is the total of element
  /// piece.begin; `parameters` is the whole flat buffer.
  void update(Range piece, const float* gradient, std::span<float> parameters);
  /// Every lane of the rank calls it with the same totals; together they update all of them, each lane an
  /// equal share of the blocks of core/numerics/tree.h.
  void update_share(std::span<const TotalView> totals, std::span<float> parameters, int lane, int lanes);

  /// Writes sums[b] = the sum of squares, in float64, of the parameters' totals in block b of
  /// core/numerics/tree.h (running statistics and padding between segments do not count), for every block
  /// that `totals` covers; other entries are left alone. Each view begins and ends on a block edge or at the
  /// end of the buffer. The bits do not depend on how the views are cut, so ranks fill their own blocks and
  /// gather the rest. `sums` has one entry per block of the whole flat buffer. Every lane calls it, each
  /// doing an equal share.
  void sum_squares(std::span<const TotalView> totals, std::span<double> sums, int lane = 0,
                   int lanes = 1) const;

  /// Names of the state buffers as in PyTorch, e.g. {"exp_avg", "exp_avg_sq"}, or none.
  const std::vector<std::string>& state_names() const { return state_names_; }
  /// Elements of each state buffer of this rank: those of its shard that have state.
  std::int64_t state_elements() const { return state_elements_; }
  /// What of the shard has state: all but parameters that are not trained. Ascending, adjacent ranges joined.
  /// State buffers hold these ranges one after the other.
  std::span<const Range> shard() const { return shard_; }
  /// `totals` cut into pieces that each lie in one range of shard(); what has no state is left out.
  void cut_for_state(std::span<const TotalView> totals, std::vector<TotalView>& pieces) const;
  /// Where `range`, which lies in one range of shard(), begins in every state buffer.
  std::int64_t state_offset(Range range) const;
  /// State buffer `slot` over `range`, which lies in one range of shard(). Also the way to load a checkpoint.
  std::span<const float> state(std::size_t slot, Range range) const;
  std::span<float> state(std::size_t slot, Range range);

 private:
  std::size_t state_index(std::size_t slot, Range range) const;
  optimizer_kernels::Run run_of(Range run, const float* gradient, float* parameters);
  void update_run(const FlatSegment& segment, std::size_t place, Range run, const float* gradient,
                  float* parameters);

  OptimizerOptions options_;
  RuleId rule_;
  optimizer_kernels::Update update_;
  optimizer_kernels::Measure measure_;
  std::vector<FlatSegment> segments_;  // ascending
  ParameterSets sets_;                 // of segments_
  ParameterNorms norms_;
  std::vector<Range> owned_;                // the shard
  std::vector<Range> shard_;                // what of it has state
  std::vector<std::int64_t> shard_offset_;  // where each range begins in a state buffer
  std::int64_t elements_ = 0;
  std::int64_t state_elements_ = 0;
  std::vector<std::string> state_names_;
  HostBuffer state_;
  std::vector<UpdateFactors> factors_;
  std::vector<float> trusts_;
};

/// The Euclidean norm of the mean gradient: the root of the sum of `sums` along the canonical tree, times
/// inverse_weight. 0 when there are no blocks. Not finite when the gradient is not.
double gradient_norm(std::span<const double> sums, double inverse_weight);

/// The factor of torch.nn.utils.clip_grad_norm_: min(1, max_norm / (norm + 1e-6)); 1 when max_norm is 0
/// (off). A norm that is not finite gives a factor that is not finite or 0: the caller ends the run before it
/// is used.
double clip_scale(double norm, double max_norm);

}  // namespace lockstep
