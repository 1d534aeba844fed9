#pragma once

#include <functional>
#include <iostream>
#include <string>

#include "comm/mpi/mpi_communicator.h"
#include "core/error.h"
#include "core/log.h"
#include "trainer/run/training_run.h"

namespace lockstep::test {

/// The main function of a program that is `lockstep train` with one word in front of it, and with faults that
/// `lockstep` has not: `body(word, line, job)` sets them and trains. `usage`: the program and its word.
/// Returns the exit code.
inline int train_program(int argc, char** argv, const std::string& usage,
                         const std::function<int(const std::string&, const CommandLine&, Job&)>& body) {
  if (argc < 3) {
    std::cerr << "usage: " << usage << " train --config FILE …\n";
    return 2;
  }
  Log log;
  MpiEnvironment mpi(&argc, &argv);
  try {
    const CommandLine line = parse_command_line(argc - 1, argv + 1);
    const auto comm = make_mpi_communicator(mpi);
    log.set_rank(comm->rank() > 0 ? comm->rank() : -1);
    const auto warn = [&](const std::string& text) { log.warning("{}", text); };
    Job job{*comm, log, [&](std::size_t bytes) { return make_world_communicator(mpi, bytes, warn); }};
    return body(argv[1], line, job);
  } catch (const SilentError& e) {
    return static_cast<int>(e.code());
  } catch (const Error& e) {
    log.error("{}", e.what());
    if (e.agreed() || mpi.world_size() == 1) return static_cast<int>(e.code());
    MpiEnvironment::abort(static_cast<int>(e.code()));
  } catch (const std::exception& e) {
    log.error("{}: {}", usage, e.what());
    MpiEnvironment::abort(1);
  }
}

}  // namespace lockstep::test
