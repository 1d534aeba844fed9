#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace lockstep {

/// MPI from its start to its end. One per process, made by main, outliving every communicator. The threads of
/// the process may all call MPI. Ends MPI in the destructor, unless it has ended already; while an exception
/// unwinds it leaves that to abort(), since a rank that leaves alone would wait for the others for ever.
class MpiEnvironment {
 public:
  /// (all) Throws CommError when MPI cannot start or does not allow several threads. `recorder`, which may be
  /// null, is borrowed: all communicators of this environment write to it.
  MpiEnvironment(int* argc, char*** argv, FlightRecorder* recorder = nullptr);
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  /// As the launcher numbers them, for messages before there is a communicator.
  int world_rank() const { return rank_; }
  int world_size() const { return size_; }
  FlightRecorder* recorder() const { return recorder_; }
  /// "Open MPI v4.1.4, …", one line: part of what doctor shows.
  static std::string library_version();
  /// Ends all ranks with `code`.
  [[noreturn]] static void abort(int code);

 private:
  FlightRecorder* recorder_;
  int rank_ = 0;
  int size_ = 1;
};

struct MpiOptions {
  /// Groups are nodes; without it every rank is a group of its own and everything goes by messages.
  bool shared_memory = true;
  /// At most so many ranks in a group; 0: all of a node. For tests of several groups on one machine.
  int ranks_per_group = 0;
};

/// (all) All ranks of the MPI world, numbered by (node, local rank), with messages of its own.
std::unique_ptr<Communicator> make_mpi_communicator(MpiEnvironment& mpi, const MpiOptions& options = {});

/// (all) The same, with shared memory where it can be had: when /dev/shm of any node has less free space than
/// its ranks need for `bytes_per_rank` each, no node uses it, and `warn` is called once, on rank 0, with a
/// sentence that names the node and both figures. `bytes_per_rank` must be equal on all ranks.
///
/// LOCKSTEP_NO_SHARED_MEMORY=1 in the environment of any rank has the same effect without a warning, for
/// diagnosis. LOCKSTEP_SHM_LIMIT_BYTES=n acts as if no more than n bytes were free.
std::unique_ptr<Communicator> make_world_communicator(MpiEnvironment& mpi, std::size_t bytes_per_rank,
                                                      const std::function<void(const std::string&)>& warn);

/// Bytes that can still be allocated in /dev/shm, or as many as LOCKSTEP_SHM_LIMIT_BYTES says if that is
/// less.
std::uint64_t free_shared_memory();

}  // namespace lockstep
