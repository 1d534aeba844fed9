#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/environment.h"
#include "core/file.h"
#include "core/flight_recorder.h"

namespace lockstep {

/// Where a process stands among those of its node, as its launcher says before MPI starts.
struct NodePlace {
  std::string job;         ///< alike for the job's processes on this node and for no others; empty: alone
  int local_rank = 0;      ///< in [0, local_size)
  int local_size = 1;      ///< processes of the job on this node
  std::vector<int> ranks;  ///< the launcher's rank of each local rank, where it says; else empty
  // How a process of the job is known by its environment:
  std::vector<std::string> marks;  ///< lines that all of them have
  std::string local_rank_variable;
  std::string rank_variable;
};
/// From the variables of Open MPI, Slurm and MPICH; a process alone where they say too little.
NodePlace node_place(const Environment& environment);

/// The memory in which the processes of a job on one node show each other where they are: a file in /dev/shm
/// (else in the folder for temporary files) that is there before MPI is, named after user, host and job. The
/// processes hold a shared lock on it; a file that nobody holds is left from a job that was killed, and
/// whoever makes a new one removes it. Where no file can be had, the process has memory of its own and is a
/// node by itself.
class NodeFile {
 public:
  struct Header {
    std::atomic<std::uint64_t> id;       ///< random; tells whether two ranks look at one file
    std::atomic<std::uint32_t> ending;   ///< a watchdog ends the job: 1 its report is being made, 2 leave
    std::atomic<std::uint32_t> reached;  ///< some other node has answered once
  };

  /// Takes the slot of `place`. Throws nothing on account of the system.
  explicit NodeFile(const NodePlace& place);
  ~NodeFile();
  NodeFile(const NodeFile&) = delete;
  NodeFile& operator=(const NodeFile&) = delete;

  /// What the file of a job is called, within its folder.
  static std::string name_of(const NodePlace& place);

  bool shared() const { return !path_.empty(); }
  int slots() const { return slots_; }
  int own() const { return own_; }
  Header& header() { return *header_; }
  FlightSlot& slot(int i) { return slots_begin_[i]; }
  FlightSlot& mine() { return slot(own_); }
  /// For a process that ends without destructors: the job is over, so nobody will come any more.
  void remove() noexcept;

 private:
  bool open(const std::string& directory, const std::string& name, const NodePlace& place);
  void take_private();
  void take_slot(int i);
  void map(void* memory, int slots);

  std::string path_;
  FileDescriptor fd_;
  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
  Header* header_ = nullptr;
  FlightSlot* slots_begin_ = nullptr;
  int slots_ = 1;
  int own_ = 0;
};

/// What /proc tells about a process.
struct ProcessState {
  char state = 0;  ///< as in proc(5): R, S, D, T, Z …; 0: there is none
  std::uint64_t start_time = 0;
  bool gone() const { return state == 0 || state == 'Z' || state == 'X'; }
  bool stopped() const { return state == 'T' || state == 't'; }
};
ProcessState process_state(long pid);
/// The fields of a stat file of proc(5), of a process or a thread, from the third one (the state) on; empty
/// where there is none.
std::vector<std::string> stat_fields(const std::string& path);

/// A process as /proc shows it.
struct FoundProcess {
  long pid = 0;
  std::uint64_t start_time = 0;
  std::string command;      ///< its command line, cut short
  std::string environment;  ///< NAME=value, each ended and the first preceded by a zero byte
};
/// The processes whose environment this user may read and that has all of these lines, e.g.
/// "OMPI_COMM_WORLD_RANK=3"; the one that was started first comes first. Without this process.
std::vector<FoundProcess> processes_with(const std::vector<std::string>& lines);

}  // namespace lockstep
