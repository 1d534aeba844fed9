#include "model/cuda/host_engine.h"

#include <utility>

#include "model/cuda/run/engine.h"

namespace lockstep::test {

HostEngine make_host_engine(const Graph& graph, const ExecutorOptions& options, const cuda::CudaOptions& cuda,
                            std::unique_ptr<HostMachine> machine, std::int64_t segment_elements) {
  auto engine =
      std::make_unique<cuda::Engine<HostMachine>>(graph, options, cuda, std::move(machine), segment_elements);
  HostMachine& played = engine->machine();
  const cuda::Plan& plan = engine->plan();
  return {std::move(engine), played, plan};
}

}  // namespace lockstep::test
