#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/numerics/augmentation.h"
#include "core/numerics/tree.h"
#include "core/slice_batch.h"
#include "data/dataset.h"
#include "data/epoch_order.h"
#include "data/normalize.h"

namespace lockstep {

class FlightRecorder;

/// One global batch, as far as this rank computes it.
struct LoadedBatch {
  BatchRange range;                    ///< epoch, position, and the count r over all ranks
  std::span<const SliceBatch> slices;  ///< this rank's, in order; ready for StepInputs::slices
};

struct LoaderOptions {
  std::shared_ptr<const Dataset> data;  ///< its index is the sample index that the executor is told
  Normalizer normalizer;
  Node mine;                       ///< this rank's slices; may be empty
  std::int64_t position = 0;       ///< data position of the first batch
  int workers = 1;                 ///< threads that run ahead; 0: next() itself loads
  bool answers = true;             ///< false: labels and targets are left out
  Augmentation augmentation = {};  ///< of images; for training alone
  /// The executor augments (ExecutorOptions::augments): inputs are given as they are, with SliceBatch::moves.
  bool device_augments = false;
  std::vector<int> cpus;  ///< where workers may run; empty: wherever the thread that makes the loader may
  FlightRecorder* recorder = nullptr;  ///< told of progress; may be null
};

/// Loads batch after batch, for ever: after the last batch of an epoch comes the first of the next. Bits and
/// order depend on EpochOrder, the data and the augmentation alone, never on workers. (one) Each rank has its
/// own; nothing here is collective.
///
/// Buffers are taken once: next() and the workers allocate nothing. Workers wait without using the processor.
class Loader {
 public:
  Loader(const EpochOrder& order, LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  const EpochOrder& order() const noexcept;
  /// The next batch. It and its memory are valid until the following call. What loading threw is thrown here,
  /// for the batch that it concerns, and again by every later call.
  const LoadedBatch& next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lockstep
