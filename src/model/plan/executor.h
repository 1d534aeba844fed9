#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/batch.h"
#include "core/numerics/field_transform.h"
#include "core/numerics/precision.h"
#include "core/range.h"
#include "core/timeline.h"
#include "model/graph/flat_layout.h"
#include "model/graph/graph.h"
#include "model/plan/slice_schedule.h"

namespace lockstep {

class LanePool;

/// Sums over the valid rows of one slice.
struct SliceResult {
  double loss = 0;     ///< not divided
  double correct = 0;  ///< places whose largest output is the label
  double weight = 0;   ///< what the loss is divided by: of most losses the valid rows
  double counted = 0;  ///< places that may be correct
};

/// Told by the executor what it has finished; called from lanes.
class GradientListener {
 public:
  virtual ~GradientListener() = default;
  /// The range of the flat gradient is final in every root slot.
  virtual void ready(Range range) = 0;
  /// Between ops: a chance to work on communication.
  virtual void progress() = 0;
};

/// Told of each slice's own gradient before it is added to those of other slices; called from lanes, for one
/// range of one slice by one lane at a time.
class SliceGradientListener {
 public:
  virtual ~SliceGradientListener() = default;
  /// The range of the gradient of `slice` (global number) is final; gradient[0] is element range.begin.
  virtual void slice_ready(std::int64_t slice, Range range, std::span<float> gradient) = 0;
};

/// Looks at what every op computes, to find where a value went wrong. For searches, not for training: called
/// by one lane while the others of its team wait.
class OpInspector {
 public:
  virtual ~OpInspector() = default;
  /// `nodes`: of the graph, those that the op stands for; `output`: of the valid rows, in the device's own
  /// layout.
  virtual void forward(std::span<const int> nodes, std::span<const float> output) = 0;
  /// `gradient`: of the op's parameters and statistics, may be empty; `diff_inputs`: the gradients of its
  /// inputs that somebody needs.
  virtual void backward(std::span<const int> nodes, std::span<const float> gradient,
                        std::span<const std::span<const float>> diff_inputs) = 0;
};

/// What belongs to a step besides its slices, where the whole step is one piece of work for a device
/// (ExecutorOptions::whole_step). What they enqueue may be kept and launched again for later steps, without
/// another call: it must not depend on the step but through the device's memory.
class StepFrame {
 public:
  virtual ~StepFrame() = default;
  virtual void begin() = 0;
  /// After the listener was told of all of the gradient.
  virtual void end() = 0;
};

struct StepInputs {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::span<const float> parameters;        ///< flat, this executor's layout
  std::span<const Batch> slices;            ///< of this rank, in order
  std::span<const std::span<float>> roots;  ///< flat gradient slots of the maximal subtrees (train only)
  std::span<SliceResult> results;           ///< one per slice
  GradientListener* listener = nullptr;     ///< may be null
  SliceGradientListener* slice_listener = nullptr;  ///< may be null
  OpInspector* inspector = nullptr;                 ///< may be null
  bool parameters_changed = true;  ///< since the last call: kernels prepare their weights anew
  /// A power of two by which the loss's gradient is multiplied inside; what reaches the roots is divided by
  /// it again. For float16; the CPU passes it over.
  float loss_scale = 1.0f;
  /// With ExecutorOptions::device_buffers: where in the device's memory that power of two lies instead, since
  /// the device may change it from step to step; null where the host knows it.
  const float* device_loss_scale = nullptr;
  /// With ExecutorOptions::device_buffers: a loss that is not finite puts a NaN into the gradient, before the
  /// listener is told of any of it; in a host's memory the listener sees the losses itself.
  bool spread_nonfinite_loss = false;
  /// With ExecutorOptions::device_buffers: train() only enqueues, and leaves `results` to give_results().
  bool only_enqueue = false;
  StepFrame* frame = nullptr;  ///< with ExecutorOptions::whole_step; may be null
  int place = 0;               ///< where its results are kept until then, below ExecutorOptions::places
};

/// What one op costs, for --dry-run and reports.
struct OpReport {
  std::string layer;
  std::string op;      ///< e.g. "conv2d+relu" where fused
  std::string kernel;  ///< the library's own name of the implementation
  Shape output;
  std::int64_t parameters = 0;
  std::int64_t flops = 0;  ///< forward, one sample
};
struct PlanReport {
  std::vector<OpReport> ops;
  std::size_t arena_bytes = 0;     ///< activations and their gradients, one slice in flight
  std::size_t scratch_bytes = 0;   ///< per lane
  std::size_t prepared_bytes = 0;  ///< weights in kernels' own layouts
  std::size_t gradient_bytes = 0;  ///< private slots
  int contexts = 1;                ///< slices in flight
};

struct ExecutorOptions {
  std::int64_t slice_rows = 0;
  bool training = true;     ///< false: forward only, running statistics, no dropout
  std::int64_t slices = 1;  ///< S
  Node mine{0, 1};          ///< this rank's slices
  /// Which plans of its libraries to take, as plan_choice() of another rank's executor gave it; empty: pick
  /// them.
  std::string plan_choice;
  /// Called now and then while a compilation that may take long goes on; may be empty.
  std::function<void()> progress;
  /// Training on a device with memory of its own: the parameters and roots of StepInputs are its addresses.
  /// False: they lie in host memory, and the executor copies.
  bool device_buffers = false;
  /// By place in Graph::fields: what the executor does to an input of images (C, H, W) where it takes it in.
  /// Empty: nothing. The CPU's executor refuses: there the loader does it.
  std::vector<FieldTransform> transforms = {};
  /// A family: the graph of every length class, with the same parameters; each batch says of which it is
  /// (Batch::length_class). They share parameters, gradients and arena. Empty: the graph alone. `graph` must
  /// be the last of them.
  std::vector<Graph> classes = {};
  /// With device_buffers: a step's uploads come before all else, so that the rest of it, from
  /// StepFrame::begin() to end(), can be one captured graph. Nothing of it may wait for other ranks.
  bool whole_step = false;
  /// How many steps' results a device keeps for the host at most (StepInputs::place).
  int places = 1;
};

/// A graph compiled for one device and slice size. Kernels, layouts, fusions, workspaces and the arena are
/// chosen here, once; train() and infer() then allocate nothing. One per rank (no MPI in it).
class Executor {
 public:
  virtual ~Executor() = default;
  virtual const FlatLayout& layout() const = 0;
  virtual const SliceSchedule& schedule() const = 0;
  virtual PlanReport report() const = 0;
  /// Text that decides the bits besides the binary and the machine: kernel names and layouts.
  virtual std::string fingerprint() const = 0;
  /// The libraries' plans that were picked when the executor was made, as text for the executors of the other
  /// ranks and for checkpoints. Empty where nothing is picked.
  virtual std::string plan_choice() const { return {}; }

  /// Forward, loss and backward of all slices of this rank. One thread calls; all lanes work.
  virtual void train(const StepInputs& inputs) = 0;
  /// After train() that only enqueued, once the caller has waited for the device: the results of the step in
  /// this place, one per slice.
  virtual void give_results(int place, std::span<SliceResult> results) {
    (void)place;
    (void)results;
  }
  /// Forward and loss (skipped for slices without the fields that the loss takes). outputs: per slice (rows,
  /// output elements), plain; may be empty.
  virtual void infer(const StepInputs& inputs, std::span<const std::span<float>> outputs) = 0;

  /// Between the stored form of a segment (storage.size() elements) and the plain row-major form (shape
  /// elements).
  virtual void export_plain(const FlatSegment& segment, std::span<const float> stored,
                            std::span<float> plain) const = 0;
  virtual void import_plain(const FlatSegment& segment, std::span<const float> plain,
                            std::span<float> stored) const = 0;
};

/// The library behind the CPU kernels and its version, one line.
std::string cpu_library_version();

/// Why this processor cannot compute in bf16, as a clause; empty where it can.
std::string cpu_bf16_problem();

/// Throws ConfigError, which names train.precision, where the CPU of this machine does not compute in this
/// precision.
void check_cpu_precision(Precision precision);

/// Compiles for the CPU, in a precision that check_cpu_precision() lets pass. `lanes` must outlive the
/// executor. A training and an inference executor of one graph on one machine have the same layout().
std::unique_ptr<Executor> compile_cpu(const Graph& graph, const ExecutorOptions& options, LanePool& lanes,
                                      Timeline* timeline = nullptr, Precision precision = Precision::fp32);

}  // namespace lockstep
