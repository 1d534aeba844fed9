#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/numerics/precision.h"
#include "model/cuda/kernels/work_elementwise.h"
#include "model/cuda/kernels/work_loss.h"
#include "model/graph/graph.h"
#include "model/graph/op_entry.h"

// Ops that a GPU computes with kernels of Lockstep's own, and that the plan knows nothing else of. Such an op
// is a source file in model/cuda/ops/, which is compiled as C++, too, where there is no CUDA: then the host
// plays the GPU in tests. Nothing here needs CUDA.

namespace lockstep::cuda {

/// A kernel in both forms: work(i) for i in [0, n).
struct OwnWork {
  void (*on_host)(std::int64_t n, const void* work);
  /// Enqueues it on a cudaStream_t. Null in a build without CUDA.
  void (*on_device)(std::int64_t n, const void* work, int multiprocessors, void* stream);
  std::size_t bytes;  ///< of the work, which may be copied as bytes
};
/// Of each kind of work; defined where the op's source includes model/cuda/ops/own_work.h.
template <class Work>
const OwnWork& own_work();

/// What carries work out: a GPU's stream, or the host.
class Launcher {
 public:
  virtual ~Launcher() = default;
  template <class Work>
  void each(std::int64_t n, const Work& work) {
    if (n > 0) enqueue(n, own_work<Work>(), &work);
  }

 protected:
  virtual void enqueue(std::int64_t n, const OwnWork& kernel, const void* work) = 0;
};

/// The most fields of a batch that a plan takes.
inline constexpr std::size_t most_fields = 8;

/// The most inputs, and the most parameters, of such an op.
inline constexpr std::size_t own_inputs = 4, own_parameters = 4;

/// One slice of one op, for OwnOp::forward and backward. Addresses are the device's. Values are plain
/// row-major in the plan's precision, but those of rank 3 are channels-last: lines_of() tells the difference.
struct OwnCall {
  Launcher& launcher;
  const lockstep::Graph& graph;
  const OpNode& node;
  Precision precision;
  std::int64_t rows;  ///< of the slice, the empty ones included
  std::array<const void*, own_inputs> x{};
  void* y = nullptr;
  const void* dy = nullptr;            ///< backward; rows beyond the valid ones are zeros
  std::array<void*, own_inputs> dx{};  ///< backward; null: nobody needs it; overwritten
  void* saved = nullptr;               ///< OwnNeeds::saved bytes, from forward to backward
  void* work = nullptr;                ///< OwnNeeds::work bytes
  std::array<const float*, own_parameters> parameters{};
  std::array<float*, own_parameters> gradients{};  ///< backward: overwritten
  const SliceHeader* header = nullptr;
  const std::int64_t* samples = nullptr;
  const std::int32_t* lengths = nullptr;  ///< (rows) of the first input, where it is ragged

  // Of a loss. Its x[0] is (rows, width) in float32, plain; so is dx[0], which is null in inference and gets
  // the gradient times *loss_scale, 0 in empty rows. It has no y.
  const std::int32_t* labels = nullptr;
  const float* targets = nullptr;
  const float* loss_scale = nullptr;
  LossSums* row_sums = nullptr;  ///< (rows); 0 for empty ones

  std::int64_t elements(ValueId v) const { return rows * graph.shape_of(v).elements(); }
};

struct OwnNeeds {
  bool input = false;               ///< inputs are kept until the backward pass
  bool output = false;              ///< so is the output
  std::size_t saved = 0, work = 0;  ///< bytes; work is for either direction
};

struct OwnOp {
  OwnNeeds (*needs)(const OpNode&, const lockstep::Graph&, std::int64_t rows);
  void (*forward)(const OwnCall&);
  void (*backward)(const OwnCall&);  ///< null for a loss, whose forward() does both
};

/// The op's own kernels, or null where it has none.
const OwnOp* own_op(const OpEntry& op);

/// Lines along the last axis of a value of this shape, and how many there are in `rows` rows.
struct Lines {
  VectorShape shape;
  std::int64_t count;
};
Lines lines_of(const Shape& shape, std::int64_t rows);

/// Calls fn(T{}) with the format of activations.
template <class Fn>
void with_format(Precision precision, Fn fn) {
  if (precision == Precision::bf16)
    fn(Bf16{});
  else if (precision == Precision::fp16)
    fn(Fp16{});
  else
    fn(float{});
}

}  // namespace lockstep::cuda
