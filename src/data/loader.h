#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/batch.h"
#include "core/numerics/tree.h"
#include "data/dataset.h"
#include "data/epoch_order.h"
#include "data/field_reader.h"

namespace lockstep {

class FlightRecorder;

/// One global batch, as far as this rank computes it.
struct LoadedBatch {
  BatchRange range;               ///< epoch, position, and the count r over all ranks
  double weight = 0;              ///< of the loss over all r samples (LoaderOptions::weights)
  std::span<const Batch> slices;  ///< this rank's, in order; ready for StepInputs::slices
};

struct LoaderOptions {
  std::shared_ptr<const Dataset> data;  ///< its index is the sample index that the executor is told
  /// What a batch consists of, in the order of the graph's fields; null: that field is left out.
  std::vector<std::shared_ptr<const FieldReader>> fields;
  /// The weight of every sample in the loss; null: each weighs 1. W of a batch is their sum in the order of
  /// the batch, known to every rank without communication.
  std::shared_ptr<const std::vector<float>> weights;
  Node mine;                  ///< this rank's slices; may be empty
  std::int64_t position = 0;  ///< data position of the first batch
  int workers = 1;            ///< threads that run ahead; 0: next() itself loads
  std::vector<int> cpus;      ///< where workers may run; empty: wherever the thread that makes the loader may
  FlightRecorder* recorder = nullptr;  ///< told of progress; may be null
};

/// Loads batch after batch, for ever: after the last batch of an epoch comes the first of the next. Bits and
/// order depend on EpochOrder, the data and its transforms alone, never on workers. (one) Each rank has its
/// own; nothing here is collective.
///
/// Workers take rows of a batch, a few at a time, so that all of them load the batch that is needed next.
/// Buffers are taken once: next() and the workers allocate nothing within an epoch. Workers wait without
/// using the processor.
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
