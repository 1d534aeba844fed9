#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/numerics/loss_scale.h"
#include "core/range.h"
#include "device/device_pointer.h"
#include "optim/cuda/work_optimizer.h"
#include "optim/rules/table.h"

namespace lockstep {

/// What of DeviceStep::decide() an update goes by.
enum class DecisionUse : int {
  nothing,  ///< factors alone
  skip,     ///< the decision whether to update
  clip      ///< and its factor of gradients
};

/// What a DeviceStep is made for.
struct DeviceStepSetup {
  RuleId rule = {};
  std::size_t buffers = 0;    ///< of state, zeroed
  std::int64_t elements = 0;  ///< of each
  std::vector<cuda::GranuleKind> kinds;
  std::vector<Range> pieces;  ///< ParameterNorms::pieces(), where the rule needs norms
  std::size_t segments = 0;   ///< of the flat layout
  int places = 1;             ///< for steps in flight
};

/// Totals of the gradient in the memory of a device.
struct DeviceTotal {
  Range range;
  DevicePointer<const float> data;  ///< of element range.begin
};

/// What a training step does on a device whose memory holds the flat parameters, gradients and optimizer
/// state. Spans are of host memory. What reads waits for everything that was enqueued before; the rest
/// only enqueues.
///
/// Steps may be enqueued one behind the other: each in a place of its own, where what the host learns of it
/// is kept until finish().
class DeviceStep {
 public:
  virtual ~DeviceStep() = default;

  virtual void write(DevicePointer<float> device, std::span<const float> host) = 0;
  virtual void read(DevicePointer<const float> device, std::span<float> host) = 0;
  virtual void read(DevicePointer<const double> device, std::span<double> host) = 0;

  /// Once.
  virtual void prepare(const DeviceStepSetup& setup) = 0;
  virtual DevicePointer<float> state(std::size_t buffer) = 0;

  /// As Optimizer::sum_squares(), into host memory. Blocks that `totals` does not cover are left alone.
  virtual void sum_squares(std::span<const DeviceTotal> totals, std::span<double> sums) = 0;
  /// The same into the device's memory; with `all_finite` a block with a statistic that is not finite gets
  /// NaN.
  virtual void sum_blocks(std::span<const DeviceTotal> totals, DeviceSpan<double> sums, bool all_finite) = 0;
  /// Before a step: what decide(), update() and mark() of it go by. No step since the last finish() had this
  /// place.
  virtual void begin(int place, const cuda::StepScalars& scalars) = 0;
  /// From a number per block, sums of squares or finite_mark()s, all of them: what the next update() follows
  /// if it is told to. `max_norm` 0: no clipping. `scaling`: of the loss, null where it is not scaled; then a
  /// step that overflowed is left out, and the scale of the next one and the factors of this one follow from
  /// what was decided before. A step that is refused makes all later ones void, until resume().
  virtual void decide(DeviceSpan<const double> sums, double max_norm, const LossScaleOptions* scaling) = 0;
  virtual void resume() = 0;
  /// Where the device keeps the scale of the loss: read by the executor, changed by decide(). The same
  /// address for good.
  virtual DevicePointer<const float> loss_scale() const = 0;
  virtual void set_loss_scale(const LossScale& state) = 0;
  /// As Optimizer::measure_share(), of a rule with norms, into host memory; other sums are left alone.
  virtual void measure(std::span<const DeviceTotal> totals, std::span<const std::int64_t> state_offsets,
                       DevicePointer<float> parameters, std::span<double> sums) = 0;
  /// Optimizer::trusts(), for the next update().
  virtual void set_trusts(std::span<const float> trusts) = 0;
  /// One optimizer step over all totals, one kernel each; state_offsets[i] is where totals[i] begins in the
  /// state.
  virtual void update(std::span<const DeviceTotal> totals, std::span<const std::int64_t> state_offsets,
                      DevicePointer<float> parameters, DecisionUse follow) = 0;
  /// After the last of a step: keeps what was decided.
  virtual void end() = 0;
  /// Waits for everything that was enqueued.
  virtual void finish() = 0;
  /// After finish(): what was decided about the step in this place.
  virtual cuda::StepDecision decision(int place) const = 0;

  /// Points of a step whose times the device notes.
  enum class Mark { begun, computed, decided, updated, gathered };
  static constexpr int marks = 5;
  virtual void mark(Mark point) = 0;
  /// After finish(): what lay between two points of the steps in these places, in seconds.
  virtual double seconds_between(int from_place, Mark from, int to_place, Mark to) const = 0;
};

}  // namespace lockstep
