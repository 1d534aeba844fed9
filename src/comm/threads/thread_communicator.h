#pragma once

#include <functional>
#include <vector>

#include "comm/communicator.h"

namespace lockstep {

/// Runs `body` on ranks that are threads of this process, with the same semantics as ranks that are
/// processes: shared regions are plain memory, messages are copied by whoever comes second. Made for tests
/// under a thread sanitizer, and good for nothing faster.
///
/// `group_sizes`: how many ranks share memory, group by group; empty: all of them. Their sum is the rank
/// count. When a body throws, or calls Communicator::abort(), every wait of the other ranks throws CommError.
/// Returns when all threads have ended; throws what the lowest rank threw, passing over errors that only echo
/// another rank's failure.
void run_ranks(int ranks, const std::vector<int>& group_sizes,
               const std::function<void(Communicator&)>& body);

/// The topology of such ranks.
Topology make_topology(int rank, const std::vector<int>& group_sizes);

}  // namespace lockstep
