#include "trainer/compute_device.h"

#include "comm/communicator.h"

namespace lockstep {

std::unique_ptr<Executor> compile_alike(const ComputeDevice& device, const Graph& graph,
                                        ExecutorOptions options, Communicator& comm, LanePool& lanes,
                                        Timeline* timeline) {
  if (!device.picks_plans || comm.size() == 1) return device.compile(graph, options, lanes, timeline);
  std::unique_ptr<Executor> executor;
  together(comm, [&] {
    if (comm.rank() == 0) executor = device.compile(graph, options, lanes, timeline);
  });
  options.plan_choice = comm.broadcast_text(executor ? executor->plan_choice() : "", 0);
  together(comm, [&] {
    if (comm.rank() != 0) executor = device.compile(graph, options, lanes, timeline);
  });
  return executor;
}

}  // namespace lockstep
