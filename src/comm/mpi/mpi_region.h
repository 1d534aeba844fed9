#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "comm/communicator.h"
#include "comm/mpi/mpi_handles.h"

namespace lockstep {

/// (all of the group) Shared memory for the ranks of `group`; private memory where the group is one rank.
/// `recorder`, which may be null, is told when freeing it waits for the others.
std::unique_ptr<SharedRegion> make_mpi_region(std::shared_ptr<const mpi::Comm> group,
                                              const Topology& topology, std::size_t bytes,
                                              FlightRecorder* recorder);

/// What a part of `bytes` takes, with room to align it.
std::size_t region_bytes(std::size_t bytes);

}  // namespace lockstep
