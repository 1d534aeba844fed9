#pragma once

#include "trainer/config/config.h"
#include "trainer/run/job.h"

namespace lockstep {

/// (all) `lockstep doctor`: rendezvous, ranks, hosts, devices, libraries, shared memory, messages between all
/// pairs of ranks (a sample of many), clocks, and with --config whether all ranks have one and the same. What
/// is found comes last, a line each: "wrong: …" where training would be refused or come out wrong, "doubtful:
/// …" where it would be slow or hard to follow. Returns the exit code: 0 when nothing is wrong (also with
/// doubts), 2 otherwise.
int doctor_command(const CommandLine& command, Job& job);

}  // namespace lockstep
