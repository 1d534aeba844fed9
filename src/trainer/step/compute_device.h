#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "comm/sync/gradient_sync.h"
#include "core/log.h"
#include "core/timeline.h"
#include "model/plan/executor.h"

namespace lockstep {

class DeviceStep;
class LanePool;

/// Lines for the log; empty: nothing to say.
struct DeviceNotes {
  std::string info, warning;
};

/// Where a rank computes, as the functions that differ from device to device. The default is the CPU in
/// fp32. Made by
/// the table of devices; everything above it is the same for all of them.
struct ComputeDevice {
  std::string name = "cpu";
  /// What decides bits besides the plan, and the CPU does not tell: the device's model and libraries, and
  /// a precision other than fp32; one line.
  std::string fingerprint = {};
  /// Compiles a graph for the device.
  std::function<std::unique_ptr<Executor>(const Graph&, const ExecutorOptions&, LanePool&, Timeline*)>
      compile = [](const Graph& graph, const ExecutorOptions& options, LanePool& lanes, Timeline* timeline) {
        return compile_cpu(graph, options, lanes, timeline);
      };
  /// (all) The gradient synchroniser between the ranks' buffers.
  std::function<std::unique_ptr<GradientSync>(Communicator&, std::int64_t elements,
                                              const GradientSyncOptions&, Timeline*)>
      make_sync = [](Communicator& comm, std::int64_t elements, const GradientSyncOptions& options,
                     Timeline* timeline) { return GradientSync::create(comm, elements, options, timeline); };
  /// What a step does on a device that holds the flat buffers: then the training executor
  /// (ExecutorOptions::device_buffers) and the synchroniser deal in addresses of the device. Empty: all lies
  /// in host memory.
  std::function<std::unique_ptr<DeviceStep>()> make_step;
  /// What make_step() and make_sync() make only enqueues, so that steps can be enqueued one behind the other.
  bool only_enqueues = false;
  /// With only_enqueues: on one rank a step may be one captured graph, exchange and optimizer included.
  bool captures_steps = false;
  /// compile() picks plans of libraries, so rank 0 does and tells the others (Executor::plan_choice).
  bool picks_plans = false;
  /// Its executors normalise and augment images on the way to where they compute
  /// (ExecutorOptions::transforms), so that the loader need not.
  bool transforms_fields = false;
  /// What came of picking them, on the rank that did, since it was last asked. May be empty.
  std::function<DeviceNotes()> take_notes;
  /// The loss is scaled dynamically, since gradients are computed in float16 (core/numerics/loss_scale.h).
  bool scales_loss = false;
};

/// (one) The CPU in a precision. Throws ConfigError where it does not compute in that.
ComputeDevice cpu_device(Precision precision);

/// (all) An executor on every rank, with the library plans that rank 0's picks; rank 0's first where plans
/// are picked.
std::unique_ptr<Executor> compile_on_all(const ComputeDevice& device, const Graph& graph,
                                         ExecutorOptions options, Communicator& comm, LanePool& lanes,
                                         Timeline* timeline = nullptr);

/// (one) Logs what the device has to say.
void log_notes(const ComputeDevice& device, const Log& log);

}  // namespace lockstep
