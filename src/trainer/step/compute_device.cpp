#include "trainer/step/compute_device.h"

#include "comm/communicator.h"
#include "core/flight_recorder.h"

namespace lockstep {

ComputeDevice cpu_device(Precision precision) {
  check_cpu_precision(precision);
  ComputeDevice device;
  if (precision != Precision::fp32) device.fingerprint = std::string("cpu, precision ") + name_of(precision);
  device.compile = [precision](const Graph& graph, const ExecutorOptions& options, LanePool& lanes,
                               Timeline* timeline) {
    return compile_cpu(graph, options, lanes, timeline, precision);
  };
  return device;
}

std::unique_ptr<Executor> compile_on_all(const ComputeDevice& device, const Graph& graph,
                                         ExecutorOptions options, Communicator& comm, LanePool& lanes,
                                         Timeline* timeline) {
  // Measuring plans takes long, and is no hang.
  if (FlightRecorder* recorder = comm.recorder()) options.progress = [recorder] { recorder->tick(); };
  if (!device.picks_plans || comm.size() == 1) return device.compile(graph, options, lanes, timeline);
  std::unique_ptr<Executor> executor;
  agree_on_error(comm, [&] {
    if (comm.rank() == 0) executor = device.compile(graph, options, lanes, timeline);
  });
  options.plan_choice = comm.broadcast_text(executor ? executor->plan_choice() : "", 0);
  agree_on_error(comm, [&] {
    if (comm.rank() != 0) executor = device.compile(graph, options, lanes, timeline);
  });
  return executor;
}

void log_notes(const ComputeDevice& device, const Log& log) {
  if (!device.take_notes) return;
  const DeviceNotes notes = device.take_notes();
  if (!notes.info.empty()) log.info("{}", notes.info);
  if (!notes.warning.empty()) log.warning("{}", notes.warning);
}

}  // namespace lockstep
