#pragma once

#include <cmath>
#include <cstdint>

#include "core/numerics/loss_scale.h"
#include "core/numerics/tree.h"
#include "core/range.h"
#include "optim/parameter_sets.h"
#include "optim/rules/correct_bias.h"
#include "optim/rules/rule.h"

// A whole optimizer step over the flat buffers as one kernel, and the norm of the gradient along the
// canonical tree, as functions of one item: the same float32 and float64 operations in the same order as the
// CPU's optimizer (optim/rules/ has the formulas of both), so that a test compares bits. Ours because no
// library has an optimizer.

namespace lockstep::cuda {

/// What the device reads of a step that differs from step to step, in its memory: a captured step reads new
/// ones.
struct StepScalars {
  UpdateFactors sets[most_sets];  ///< as many as there are
  double inverse_weight = 1;      ///< 1 / weight of the loss
  /// Of which the device computes the correction in the factors anew where it scales the loss: only it knows
  /// how many updates were made before this one.
  double lr[most_sets] = {};  ///< by set
  double beta1 = 0, beta2 = 0;
  std::int64_t updates = 0;  ///< before this one, had no step overflowed
  int count = 0;             ///< of sets
};

/// What sixteen elements are, which begin at a multiple of sixteen: segments of the flat layout are aligned
/// so. Of the last sixteen of a segment the rest is padding, which holds zeros and stays zero under every
/// rule.
struct GranuleKind {
  float keep = 0, take = 0;  ///< of a statistic: 1 - momentum and momentum
  std::uint8_t statistic = 0;
  std::uint8_t parameter = 0;
  std::uint8_t set = 0;  ///< of a parameter: whose factors it takes
  std::uint8_t unused = 0;
  std::uint32_t segment = 0;  ///< of a parameter: whose trust it takes
};
inline constexpr std::int64_t granule_elements = 16;

/// Item: element of a range of the flat buffers.
template <class Rule>
struct OptimizerUpdate {
  float* parameters;                 ///< flat
  const float* gradient;             ///< of the range: gradient[0] is the total of element `begin`
  float* states[rules::most_slots];  ///< of the range, as many as the rule has
  const GranuleKind* kinds;          ///< of the whole flat buffer
  const StepScalars* scalars;
  const float* clip;  ///< the factor of gradients instead of that in `scalars`; may be null
  const float* skip;  ///< where not 0, nothing is changed; may be null
  std::int64_t begin;
  const float* trusts = nullptr;  ///< by segment, of a rule with norms
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    if (skip != nullptr && *skip != 0.0f) return;
    const std::int64_t e = begin + i;
    const GranuleKind kind = kinds[e / granule_elements];
    const UpdateFactors& f = scalars->sets[kind.set];
    float p = parameters[e];
    if (kind.statistic != 0) {
      parameters[e] = kind.keep * p + kind.take * (gradient[i] * f.mean);
      return;
    }
    if (kind.parameter == 0) return;
    float state[rules::most_slots] = {};
    if constexpr (Rule::slots > 0) state[0] = states[0][i];
    if constexpr (Rule::slots > 1) state[1] = states[1][i];
    const float g = gradient[i] * (clip != nullptr ? *clip : f.gradient);
    if constexpr (Rule::need == rules::Need::norms)
      Rule::update(p, g, state, f, trusts[kind.segment]);
    else
      Rule::update(p, g, state, f);
    parameters[e] = p;
    if constexpr (Rule::slots > 0) states[0][i] = state[0];
    if constexpr (Rule::slots > 1) states[1][i] = state[1];
  }
};

/// The sums of squares of the parameters' gradients in a block of core/numerics/tree.h are made in the order
/// of the CPU's: eight over every eighth element, then along a tree.
inline constexpr int block_parts = 8;

/// What the norms of parameters are made of (optim/parameter_norms.h), of a rule with norms, whose state may
/// move. Item: (piece, part): one of eight; SumOfBlock over twice as many as there are pieces follows.
template <class Rule>
struct MeasurePiece {
  const float* parameters;  ///< flat
  const float* gradient;    ///< of a range that holds the pieces: gradient[0] is the total of element `begin`
  float* states[rules::most_slots];  ///< of the range
  const GranuleKind* kinds;
  const StepScalars* scalars;
  const Range* pieces;
  double* parts;  ///< (pieces, 2, 8)
  std::int64_t begin;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const Range piece = pieces[i / block_parts];
    const std::int64_t part = i % block_parts;
    const UpdateFactors& f = scalars->sets[kinds[piece.begin / granule_elements].set];
    double of_parameter = 0, of_measured = 0;
    const std::int64_t off = piece.begin % block_parts;
    for (std::int64_t e = piece.begin + (part - off + block_parts) % block_parts; e < piece.end;
         e += block_parts) {
      const std::int64_t at = e - begin;
      float state[rules::most_slots] = {};
      if constexpr (Rule::slots > 0) state[0] = states[0][at];
      if constexpr (Rule::slots > 1) state[1] = states[1][at];
      const float p = parameters[e];
      const float measured = Rule::measured(p, gradient[at] * f.gradient, state, f);
      if constexpr (Rule::slots > 0) states[0][at] = state[0];
      if constexpr (Rule::slots > 1) states[1][at] = state[1];
      of_parameter += static_cast<double>(p) * static_cast<double>(p);
      of_measured += static_cast<double>(measured) * static_cast<double>(measured);
    }
    double* to = parts + i / block_parts * 2 * block_parts + part;
    to[0] = of_parameter;
    to[block_parts] = of_measured;
  }
};

/// Item: (block of the range, part): one of the eight, so that neighbours read neighbours.
struct SquaresOfBlock {
  const float* gradient;  ///< gradient[0] is element `begin`, which is the edge of a block
  double* parts;          ///< (blocks of the range, 8)
  const GranuleKind* kinds;
  std::int64_t begin, end;
  bool all_finite = false;  ///< a statistic that is not finite makes the sum NaN
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t from = begin + i / block_parts * block_elements;
    const std::int64_t to = from + block_elements < end ? from + block_elements : end;
    double sum = 0;
    float others = 0;
    for (std::int64_t e = from + i % block_parts; e < to; e += block_parts) {
      const float x = gradient[e - begin];
      if (kinds[e / granule_elements].parameter == 0)
        others += x - x;  // 0 or NaN
      else
        sum += static_cast<double>(x) * static_cast<double>(x);
    }
    // A sum of squares is never -0, so that adding 0 would not change it; the flag says what is meant.
    parts[i] = all_finite ? sum + static_cast<double>(others) : sum;
  }
};
/// Item: block of the range.
struct SumOfBlock {
  const double* parts;  ///< (blocks of the range, 8)
  double* sums;         ///< of the range
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const double* p = parts + i * block_parts;
    sums[i] = ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]));
  }
};

/// Consecutive values of which one item makes one sum.
inline constexpr int tree_leaves = 32;

/// Part of the sum of n values along the canonical tree: every 32 neighbours, a subtree of it, become one.
/// Item: group of 32; (n + 31) / 32 of them. Repeated until one is left, that is the tree of
/// core/numerics/tree.h, whose left parts are whole powers of two.
struct TreeOfGroup {
  const double* from;
  double* to;  ///< must not overlap `from`
  std::int64_t n;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const double* leaf = from + i * tree_leaves;
    const std::int64_t left = n - i * tree_leaves;
    const int count = left < tree_leaves ? static_cast<int>(left) : tree_leaves;
    double waiting[6] = {};  // [b]: the sum of 2^b leaves, waiting for as many on its right
    for (int j = 0; j < count; ++j) {
      double sum = leaf[j];
      int b = 0;
      for (; (j >> b) % 2 == 1; ++b) sum = waiting[b] + sum;
      waiting[b] = sum;
    }
    // One for each bit of the count is left, the smallest rightmost.
    int b = 0;
    while ((count >> b) % 2 == 0) ++b;
    double sum = waiting[b];
    for (++b; (count >> b) != 0; ++b)
      if ((count >> b) % 2 == 1) sum = waiting[b] + sum;
    to[i] = sum;
  }
};

/// What the device has decided about a step, from totals that all ranks have alike, and what it keeps from
/// one decision to the next.
struct StepDecision {
  double norm = 0;   ///< of the mean gradient, before clipping
  float clip = 0;    ///< what OptimizerUpdate multiplies gradients with: 1 / samples, and the clipping
  float skip = 0;    ///< not 0: OptimizerUpdate changes nothing; see below
  float halted = 0;  ///< 1 from a refused step until the host resumes: it may have enqueued more of them
  LossScale loss_scale = {};  ///< for the next step; see SetLossScale
};
/// Values of StepDecision::skip.
inline constexpr float step_applied = 0;
inline constexpr float step_refused = 1;     ///< its norm is not finite
inline constexpr float step_void = 2;        ///< one before it was refused
inline constexpr float step_overflowed = 3;  ///< its norm is not finite, and the next takes a smaller scale

/// From the sum of squares of the totals, or (where nothing is clipped) of marks that are 0 or NaN, without
/// the host. One item.
struct DecideStep {
  const double* squares;
  StepDecision* decision;
  StepScalars* scalars;
  double max_norm;      ///< 0: clipping is off
  bool scales = false;  ///< the loss
  LossScaleOptions scaling = {};
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t) const {
    const double inverse_weight = scalars->inverse_weight;
    const double found = sqrt(*squares) * inverse_weight;
    const double scale = max_norm / (found + 1e-6);
    decision->norm = found;
    decision->clip = static_cast<float>(inverse_weight * (max_norm == 0 || scale > 1 ? 1.0 : scale));
    const bool finite = found - found == 0;  // infinite and NaN give NaN
    if (decision->halted != 0) {
      decision->skip = step_void;
      return;
    }
    LossScale& state = decision->loss_scale;
    if (finite && scales) {
      for (int s = 0; s < scalars->count; ++s)
        correct_bias(scalars->sets[s], scalars->lr[s], scalars->beta1, scalars->beta2,
                     scalars->updates - state.skipped);
    }
    const bool overflowed = !finite && scales && scale_may_be_at_fault(state, scaling);
    decision->skip = finite ? step_applied : overflowed ? step_overflowed : step_refused;
    if (decision->skip == step_refused) decision->halted = 1;
    if (scales && decision->halted == 0) state = next_loss_scale(state, overflowed, scaling);
  }
};

/// Writes what differs from step to step. One item.
struct StoreScalars {
  StepScalars* to;
  StepScalars scalars;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t) const { *to = scalars; }
};

/// Writes what the host has loaded. One item.
struct SetLossScale {
  LossScale* to;
  LossScale state;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t) const { *to = state; }
};

}  // namespace lockstep::cuda
