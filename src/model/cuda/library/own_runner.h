#pragma once

#include <cstddef>
#include <cstdint>

#include "model/cuda/plan/plan.h"

// Carries out what own ops (model/cuda/plan/own_op.h) do for a slice, on any machine.

namespace lockstep::cuda {

/// Where a slice computes. All addresses are the machine's.
struct SliceMemory {
  std::byte* arena = nullptr;
  const float* parameters = nullptr;  ///< flat
  const void* narrow = nullptr;  ///< flat, in the activations' format; the parameters themselves in float32
  float* gradients = nullptr;    ///< flat, of the slice's slot; training only
  const std::byte* input = nullptr;    ///< (rows, C, H, W) of float32, or with a table of bytes
  const std::byte* answers = nullptr;  ///< the field that the loss takes
  const std::int64_t* samples = nullptr;
  const ImageMove* moves = nullptr;  ///< null: the input is what the model sees
  const float* padding = nullptr;
  const float* table =
      nullptr;  ///< what each byte of the input becomes; `table_step` from channel to channel
  std::int64_t table_step = 0;
  const SliceHeader* header = nullptr;
  /// The loss's gradient is multiplied by it, and what comes of it in the weights is divided by it again.
  const float* loss_scale = nullptr;
  LossSums* result = nullptr;
};

/// Enqueues own work on a machine.
template <class Machine>
class MachineLauncher final : public Launcher {
 public:
  explicit MachineLauncher(Machine& machine) : machine_(machine) {}

 private:
  void enqueue(std::int64_t n, const OwnWork& kernel, const void* work) override {
    machine_.each_own(n, kernel, work);
  }
  Machine& machine_;
};

/// What an own op in either direction finds: addresses from the places of the plan.
inline OwnCall own_call(const Plan& plan, const SliceMemory& memory, Launcher& launcher,
                        const OwnPlaces& places) {
  const auto address = [&](std::size_t place) -> void* {
    return place == nowhere ? nullptr : memory.arena + place;
  };
  OwnCall call{launcher, *plan.graph, plan.graph->nodes[static_cast<std::size_t>(places.node)],
               plan.precision, plan.rows};
  for (std::size_t k = 0; k < own_inputs; ++k) call.x[k] = address(places.x[k]);
  for (std::size_t k = 0; k < own_parameters; ++k)
    if (places.parameters[k] != no_parameter) call.parameters[k] = memory.parameters + places.parameters[k];
  call.y = address(places.y);
  call.saved = address(places.saved);
  call.work = address(places.work);
  call.header = memory.header;
  call.samples = memory.samples;
  return call;
}

inline void run_own(const Plan& plan, const SliceMemory& memory, Launcher& launcher, const OwnForward& c) {
  c.at.op->forward(own_call(plan, memory, launcher, c.at));
}
inline void run_own(const Plan& plan, const SliceMemory& memory, Launcher& launcher, const OwnBackward& c) {
  OwnCall call = own_call(plan, memory, launcher, c.at);
  const auto address = [&](std::size_t place) -> void* {
    return place == nowhere ? nullptr : memory.arena + place;
  };
  call.dy = address(c.dy);
  for (std::size_t k = 0; k < own_inputs; ++k) call.dx[k] = address(c.dx[k]);
  for (std::size_t k = 0; k < own_parameters; ++k)
    if (c.at.parameters[k] != no_parameter) call.gradients[k] = memory.gradients + c.at.parameters[k];
  c.at.op->backward(call);
}

/// The loss over its plain outputs, and in training their gradient.
inline void run_own_loss(const Plan& plan, const SliceMemory& memory, Launcher& launcher) {
  const LossPlan& l = plan.loss;
  OwnCall call{launcher, *plan.graph, plan.graph->loss, Precision::fp32, l.rows};
  call.x[0] = memory.arena + l.plain;
  call.dx[0] = plan.training ? memory.arena + l.diff_plain : nullptr;
  call.work = l.work == nowhere ? nullptr : memory.arena + l.work;
  call.header = memory.header;
  call.samples = memory.samples;
  call.labels = reinterpret_cast<const std::int32_t*>(memory.answers);
  call.targets = reinterpret_cast<const float*>(memory.answers);
  call.loss_scale = memory.loss_scale;
  call.row_sums = reinterpret_cast<LossSums*>(memory.arena + l.row_sums);
  l.op->forward(call);
}

}  // namespace lockstep::cuda
