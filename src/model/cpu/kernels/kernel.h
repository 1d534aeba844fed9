#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/numerics/precision.h"
#include "core/range.h"
#include "model/graph/graph.h"
#include "model/plan/executor.h"

namespace lockstep::cpu {

/// How a value lies in memory: (rows, ceil(C/block), H, W, block). Plain row-major is block 1; channels-last
/// is block C. Values of rank 1 have block 1, H = W = 1. Channels divide by the block.
struct ValueLayout {
  std::int64_t channels = 1, height = 1, width = 1, block = 1;
  NumberFormat format = NumberFormat::fp32;                            ///< of the value and of its gradient
  std::int64_t elements() const { return channels * height * width; }  ///< of one row
  std::size_t bytes() const {
    return static_cast<std::size_t>(elements()) * bytes_of(format);
  }  ///< of one row
  bool plain() const { return block == 1 || (height == 1 && width == 1); }
  friend bool operator==(const ValueLayout&, const ValueLayout&) = default;
};

/// Work that is split into a fixed number of tasks, chosen from shapes alone; tasks of one phase are
/// independent, phases follow one another. Bits never depend on which lane runs a task.
struct Phase {
  int tasks = 1;
};

/// Where a kernel finds its tensors: offsets in bytes. `none` where there is none.
inline constexpr std::size_t none = static_cast<std::size_t>(-1);
struct Binding {
  std::vector<std::size_t> inputs;         ///< in the arena
  std::size_t output = none;               ///< in the arena
  std::vector<std::size_t> diff_inputs;    ///< in the arena; `none`: nobody needs it
  std::size_t diff_output = none;          ///< in the arena
  std::size_t saved = none;                ///< in the arena: kept from forward to backward
  std::size_t work = none;                 ///< in the arena: shared by the tasks of one op in one direction
  std::size_t prepared = none;             ///< in the prepared weights of the rank
  std::vector<std::int64_t> parameters;    ///< first element in the flat buffers
  std::vector<std::int64_t> statistics;    ///< first element in the flat buffers
  std::vector<std::size_t> input_lengths;  ///< in the arena: (rows) int32 of ragged inputs, else `none`
};

/// What one task sees. Pointers are to whole buffers; add the binding's offsets.
struct TaskContext {
  std::byte* arena = nullptr;    ///< of the slice in flight
  std::byte* scratch = nullptr;  ///< of this lane; any content; Needs::scratch bytes
  int lane = 0;                  ///< which lane runs the task: chooses per-lane library objects, never bits
  const std::byte* prepared = nullptr;  ///< of the rank, written by prepare()
  const float* parameters = nullptr;    ///< flat, stored form
  float* gradients = nullptr;           ///< flat, of this slice's slot: kernels overwrite, never add
  const Batch* batch = nullptr;
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
};

/// What a kernel wants, known before memory is laid out. Bytes.
struct Needs {
  std::size_t saved = 0;
  std::size_t work = 0;
  std::size_t scratch = 0;
  std::size_t prepared = 0;
  std::vector<std::int64_t>
      parameter_storage;                 ///< elements stored per parameter of the op (padding included)
  bool needs_input_in_backward = false;  ///< inputs must be kept until its backward
  bool needs_output_in_backward = false;
};

/// What a kernel is made from.
struct KernelSpec {
  const Graph* graph = nullptr;
  int node = -1;          ///< index of the (first) op; -1: the loss
  std::int64_t rows = 0;  ///< of a slice
  int lanes = 1;          ///< that may run tasks side by side; never decides bits
  bool training = true;
  bool relu = false;       ///< a ReLU follows and is fused
  bool residual = false;   ///< (batch norm) a second input is added before the ReLU
  bool diff_input = true;  ///< somebody needs the gradient of the input
  /// Of an inference where lengths differ: every element of the output must be one fixed chain of operations,
  /// whatever the number of rows and the length class.
  bool independent = false;
  /// fp32 or bf16. In bf16 an op with matrix products rounds their factors, whatever the formats of its
  /// values.
  Precision precision = Precision::fp32;
  std::vector<ValueLayout> inputs;
  ValueLayout output;
  const OpNode& op() const {
    return node < 0 ? graph->loss : graph->nodes.at(static_cast<std::size_t>(node));
  }
};

/// One op of the compiled plan on the CPU: immutable after construction, shared by all lanes.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual const Needs& needs() const = 0;
  /// The library's own name of the implementation, e.g. "brgconv:avx512_core".
  virtual std::string implementation() const = 0;

  virtual std::span<const Phase> prepare_phases() const {
    return {};
  }  ///< once a step and rank, before any slice
  virtual std::span<const Phase> forward_phases() const = 0;
  virtual std::span<const Phase> backward_phases() const = 0;
  /// Writes ctx_prepared (the rank's prepared weights, writable here).
  virtual void prepare(int /*phase*/, int /*task*/, const Binding&, const TaskContext&,
                       std::byte* /*prepared*/) const {}
  virtual void forward(int phase, int task, const Binding& at, const TaskContext& ctx) const = 0;
  virtual void backward(int phase, int task, const Binding& at, const TaskContext& ctx) const = 0;

  /// Between stored and plain form of parameter `i` of the op; default: equal.
  virtual void export_plain(std::size_t i, std::span<const float> stored, std::span<float> plain) const;
  virtual void import_plain(std::size_t i, std::span<const float> plain, std::span<float> stored) const;
};

/// The channel block that this machine's convolution kernels prefer in this precision: 16, 8, or 1 for plain;
/// 0 for channels-last (block = C). oneDNN says it.
std::int64_t preferred_channel_block(Precision precision = Precision::fp32);

}  // namespace lockstep::cpu
