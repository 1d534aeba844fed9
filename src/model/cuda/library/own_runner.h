#pragma once

#include <cstddef>
#include <cstdint>

#include "model/cuda/plan/plan.h"

// Carries out what own ops (model/cuda/plan/own_op.h) do for a slice, on any machine.

namespace lockstep::cuda {

/// A field as it came from the host. All addresses are the machine's.
struct FieldMemory {
  const std::byte* data = nullptr;  ///< (rows, C, H, W) of float32, of bytes where there is a table, or int32
  const ImageMove* moves = nullptr;  ///< null: images stay where they are
  const float* padding = nullptr;
  const float* table = nullptr;  ///< what each byte becomes; `table_step` from channel to channel
  std::int64_t table_step = 0;
};

/// Where a slice computes. All addresses are the machine's.
struct SliceMemory {
  std::byte* arena = nullptr;
  const float* parameters = nullptr;  ///< flat
  const void* narrow = nullptr;  ///< flat, in the activations' format; the parameters themselves in float32
  float* gradients = nullptr;    ///< flat, of the slice's slot; training only
  std::array<FieldMemory, most_fields> fields;  ///< by place in Graph::fields
  const std::int32_t* lengths = nullptr;        ///< (Graph::lengths, rows)
  const std::int64_t* samples = nullptr;
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
  if (const int of = plan.graph->values[static_cast<std::size_t>(call.node.inputs[0])].lengths; of >= 0)
    call.lengths = memory.lengths + of * plan.rows;
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
  const std::byte* answers = memory.fields[static_cast<std::size_t>(plan.graph->loss.fields.at(0))].data;
  call.labels = reinterpret_cast<const std::int32_t*>(answers);
  call.targets = reinterpret_cast<const float*>(answers);
  call.loss_scale = memory.loss_scale;
  call.row_sums = reinterpret_cast<LossSums*>(memory.arena + l.row_sums);
  l.op->forward(call);
}

}  // namespace lockstep::cuda
