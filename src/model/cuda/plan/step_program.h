#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include "core/range.h"
#include "model/cuda/plan/plan.h"
#include "model/plan/slice_schedule.h"

// The order of a step on a GPU as data: what is enqueued on which stream, and which events order the streams.
// Made once; read by tests; carried out by model/cuda/run/engine.h. Needs no CUDA.

namespace lockstep::cuda {

/// The streams of a rank's GPU.
enum class Lane {
  compute,
  upload,   ///< input from the host, ahead of the slice that needs it
  download  ///< finished gradients to the host, where the sums are made there
};

struct Upload {  ///< a slice's data into input buffer `buffer`, on the upload stream
  std::int64_t slice;
  int buffer;
};
struct RunForward {  ///< input conversion to loss, on the compute stream
  std::int64_t slice;
  int slot, buffer;
};
struct RunSegment {  ///< commands of a segment of the backward pass, on the compute stream
  std::int64_t slice;
  int segment, slot, buffer;
};
struct MergeSlots {  ///< slot `into` += slot `from` over a range, on the compute stream
  int into, from;
  Range flat;
};
struct Record {
  int event;
  Lane on;
};
struct Wait {
  int event;
  Lane on;
};
struct Download {  ///< a range of every root slot to the host, on the download stream
  Range flat;
};
struct Announce {  ///< tell the listener that a range of every root is final: at once, or when `event` was
                   ///< reached
  Range flat;
  int event;  ///< -1: at once, what follows on the compute stream is ordered behind it
};

using StepAction = std::variant<Upload, RunForward, RunSegment, MergeSlots, Record, Wait, Download, Announce>;

/// The events of an input buffer, the same in every step, so that a step waits for what the last one did with
/// the buffer. A wait refers to the record before it in the order in which the host enqueues.
inline constexpr int uploaded_event(int buffer) {
  return 2 * buffer;
}
/// What reads the buffer has been computed. Must have been recorded once before the first step.
inline constexpr int consumed_event(int buffer) {
  return 2 * buffer + 1;
}

struct StepProgram {
  std::vector<StepAction> actions;
  int events = 0;
  int input_buffers = 2;
  int turns = 1;  ///< steps until the input buffers are used in the same order again
  /// Of a whole step: actions [body_begin, body_end) lie on the compute stream alone, and are the same in
  /// every step of this turn.
  std::size_t body_begin = 0, body_end = 0;
};

enum class StepShape {
  staged,    ///< gradients go to the host
  resident,  ///< they stay on the device
  whole      ///< and all uploads come first, each slice's into a buffer of its own
};

/// The program of one step: slices one after another in the order of the schedule, each in its slot, slots
/// added along the canonical tree, the next slice's data uploaded meanwhile, also while the step before is
/// still computed. `turn`: number of the step modulo turns; slices alternate between two input buffers from
/// step to step as within one, and whole steps between two sets of them. The schedule must be that of one
/// lane. Announced ranges tile the flat gradient in order.
StepProgram make_step_program(const SliceSchedule& schedule, const Plan& plan, StepShape shape, int turn = 0);

}  // namespace lockstep::cuda
