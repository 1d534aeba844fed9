#pragma once

#include "trainer/run/graph_function.h"

namespace lockstep {

/// The whole program: reads the command line, starts MPI where the command runs on ranks, and turns whatever
/// is thrown into one message and the process's exit code. Called by main alone, once, with its own
/// arguments.
///
/// `custom` makes a program like `lockstep`, with its commands, config keys, checkpoints and reports, that
/// has one more model: model.name = custom, which is what trains unless the config names another.
int run_application(int argc, char** argv, const GraphFunction& custom = {});

}  // namespace lockstep
