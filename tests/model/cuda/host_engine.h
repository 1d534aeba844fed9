#pragma once

#include <cstdint>
#include <memory>

#include "model/cuda/host_machine.h"
#include "model/cuda/plan/options.h"
#include "model/cuda/plan/plan.h"
#include "model/plan/executor.h"

namespace lockstep::test {

/// An executor on a machine that the host plays, and what of it tests look at; both live as long as
/// `executor`.
struct HostEngine {
  std::unique_ptr<Executor> executor;
  HostMachine& machine;
  const cuda::Plan& plan;

  Executor* operator->() const { return executor.get(); }
  const Executor& operator*() const { return *executor; }
};

/// Engine<HostMachine>, which takes half a minute to compile, compiled once for all tests.
/// `segment_elements`: as the engine has it. Throws what the engine throws.
HostEngine make_host_engine(const Graph& graph, const ExecutorOptions& options, const cuda::CudaOptions& cuda,
                            std::unique_ptr<HostMachine> machine,
                            std::int64_t segment_elements = std::int64_t{1} << 20);

}  // namespace lockstep::test
