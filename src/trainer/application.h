#pragma once

namespace lockstep {

/// The whole program: reads the command line, starts MPI where the command runs on ranks, and turns whatever is thrown
/// into one message and the process's exit code. Called by main alone.
int run_application(int argc, char** argv);

}  // namespace lockstep
