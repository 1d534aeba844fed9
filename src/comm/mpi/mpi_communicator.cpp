#include "comm/mpi/mpi_communicator.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fmt/format.h>
#include <vector>

#include "comm/mpi/mpi_handles.h"
#include "comm/mpi/mpi_region.h"
#include "comm/mpi/node_gather.h"
#include "core/error.h"
#include "core/flight_recorder.h"
#include "device/cpu_info.h"

namespace lockstep {
namespace {

using mpi::Bytes;

// NOLINTBEGIN(clang-analyzer-optin.mpi.MPI-Checker): it knows MPI_Wait, and not what completes requests here

[[noreturn]] void end_for_message_under_way() {
  std::fputs("lockstep: a message was destroyed while it was under way\n", stderr);
  std::fflush(stderr);
  MPI_Abort(MPI_COMM_WORLD, static_cast<int>(ExitCode::internal));
  std::abort();
}

/// One or several MPI requests that complete together.
class MpiRequest final : public Request {
 public:
  explicit MpiRequest(std::vector<MPI_Request> requests) : requests_(std::move(requests)) {}
  ~MpiRequest() override {
    if (!done_ && std::uncaught_exceptions() == 0) end_for_message_under_way();
  }
  bool test() override {
    if (done_) return true;
    int flag = 0;
    LOCKSTEP_MPI(
        MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &flag, MPI_STATUSES_IGNORE));
    return done_ = flag != 0;
  }

 private:
  std::vector<MPI_Request> requests_;
  bool done_ = false;
};

class MpiPersistentRequest final : public PersistentRequest {
 public:
  /// `request`: made by MPI_Send_init or MPI_Recv_init, inactive.
  explicit MpiPersistentRequest(MPI_Request request) : request_(request) {}
  ~MpiPersistentRequest() override {
    if (under_way_) {
      if (std::uncaught_exceptions() == 0) end_for_message_under_way();
    } else if (mpi::may_free()) {
      MPI_Request_free(&request_);
    }
  }
  void start() override {
    require(!under_way_, "a message was started while it was under way");
    LOCKSTEP_MPI(MPI_Start(&request_));
    under_way_ = true;
  }
  bool test() override {
    if (!under_way_) return true;
    int flag = 0;
    LOCKSTEP_MPI(MPI_Test(&request_, &flag, MPI_STATUS_IGNORE));
    under_way_ = flag == 0;
    return !under_way_;
  }

 private:
  MPI_Request request_;
  bool under_way_ = false;
};

// Up to short_bytes, ranks sleep while they wait for a collective. Before a longer one they meet at a
// barrier, and MPI then chooses how to move it. Up to direct_ranks, an all-gather is one message from each
// rank to each other; its tag lies above those that callers may use.
constexpr std::size_t short_bytes = std::size_t{1} << 18;
constexpr int direct_ranks = 64;
constexpr int direct_tag = 40000;

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(mpi::Comm world, mpi::Comm group, Topology topology, FlightRecorder* recorder)
      : Communicator(recorder),
        world_(std::move(world)),
        group_(std::make_shared<const mpi::Comm>(std::move(group))),
        topology_(std::move(topology)) {}

  /// (all) From here on ranks that are one group gather few bytes through shared memory.
  void share_gathers() {
    if (topology_.size == 1 || topology_.groups() > 1) return;
    node_gather_ = std::make_unique<NodeGather>(allocate_shared(NodeGather::region_bytes), topology_.rank,
                                                topology_.size);
  }

  const Topology& topology() const override { return topology_; }

  void barrier() override {
    const FlightScope scope(recorder(), Activity::barrier);
    mpi::meet(world_.get());
  }

  void broadcast(std::span<std::byte> data, int root) override {
    const FlightScope scope(recorder(), Activity::broadcast, data.size());
    const Bytes b(data.size());
    if (data.size() > short_bytes) {
      mpi::meet(world_.get());
      LOCKSTEP_MPI(MPI_Bcast(data.data(), b.count(), b.type(), root, world_.get()));
      return;
    }
    mpi::Pending pending;
    LOCKSTEP_MPI(MPI_Ibcast(data.data(), b.count(), b.type(), root, world_.get(), pending.get()));
    pending.wait("MPI_Ibcast");
  }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    require(all.size() == mine.size() * static_cast<std::size_t>(topology_.size),
            "all_gather: sizes do not fit");
    const FlightScope scope(recorder(), Activity::all_gather, mine.size());
    if (node_gather_ && mine.size() <= NodeGather::capacity) {
      node_gather_->run(mine, all, [this] { poll(); });
      return;
    }
    const Bytes b(mine.size());
    if (topology_.size <= direct_ranks && mine.size() <= short_bytes) {
      all_gather_directly(mine, all, b);
      return;
    }
    if (mine.size() > short_bytes) mpi::meet(world_.get());
    LOCKSTEP_MPI(
        MPI_Allgather(mine.data(), b.count(), b.type(), all.data(), b.count(), b.type(), world_.get()));
  }

  /// Everybody sends to everybody. Open MPI's own collectives take memory in every call, the blocking one
  /// where the rank count is no power of two, which a steady step must not.
  void all_gather_directly(std::span<const std::byte> mine, std::span<std::byte> all, const Bytes& b) {
    std::array<mpi::Pending, 2 * direct_ranks> messages;
    std::size_t n = 0;
    const auto part = [&](int r) { return all.data() + static_cast<std::size_t>(r) * mine.size(); };
    for (int r = 0; r < topology_.size; ++r) {
      if (r == topology_.rank) continue;
      LOCKSTEP_MPI(MPI_Irecv(part(r), b.count(), b.type(), r, direct_tag, world_.get(), messages[n++].get()));
    }
    for (int r = 0; r < topology_.size; ++r) {
      if (r == topology_.rank) continue;
      LOCKSTEP_MPI(
          MPI_Isend(mine.data(), b.count(), b.type(), r, direct_tag, world_.get(), messages[n++].get()));
    }
    if (!mine.empty()) std::memmove(part(topology_.rank), mine.data(), mine.size());
    for (std::size_t i = 0; i < n; ++i) messages[i].wait("a message of an all-gather");
  }

  std::unique_ptr<Request> start_all_reduce_sum(std::span<float> data) override {
    // Counts are int in MPI 3: long buffers go in parts.
    constexpr std::size_t part = std::size_t{1} << 30;
    std::vector<MPI_Request> requests;
    for (std::size_t at = 0; at < data.size() || at == 0; at += part) {
      const std::size_t n = std::min(part, data.size() - at);
      requests.push_back(MPI_REQUEST_NULL);
      LOCKSTEP_MPI(MPI_Iallreduce(MPI_IN_PLACE, data.data() + at, static_cast<int>(n), MPI_FLOAT, MPI_SUM,
                                  world_.get(), &requests.back()));
    }
    return std::make_unique<MpiRequest>(std::move(requests));
  }

  std::unique_ptr<Request> send(std::span<const std::byte> data, int to, int tag) override {
    const Bytes b(data.size());
    MPI_Request request = MPI_REQUEST_NULL;
    LOCKSTEP_MPI(MPI_Isend(data.data(), b.count(), b.type(), to, tag, world_.get(), &request));
    return std::make_unique<MpiRequest>(std::vector{request});
  }

  std::unique_ptr<Request> receive(std::span<std::byte> data, int from, int tag) override {
    const Bytes b(data.size());
    MPI_Request request = MPI_REQUEST_NULL;
    LOCKSTEP_MPI(MPI_Irecv(data.data(), b.count(), b.type(), from, tag, world_.get(), &request));
    return std::make_unique<MpiRequest>(std::vector{request});
  }

  std::unique_ptr<PersistentRequest> make_send(std::span<const std::byte> data, int to, int tag) override {
    const Bytes b(data.size());
    MPI_Request request = MPI_REQUEST_NULL;
    LOCKSTEP_MPI(MPI_Send_init(data.data(), b.count(), b.type(), to, tag, world_.get(), &request));
    return std::make_unique<MpiPersistentRequest>(request);
  }

  std::unique_ptr<PersistentRequest> make_receive(std::span<std::byte> data, int from, int tag) override {
    const Bytes b(data.size());
    MPI_Request request = MPI_REQUEST_NULL;
    LOCKSTEP_MPI(MPI_Recv_init(data.data(), b.count(), b.type(), from, tag, world_.get(), &request));
    return std::make_unique<MpiPersistentRequest>(request);
  }

  void poll() override {
    int flag = 0;
    LOCKSTEP_MPI(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, world_.get(), &flag, MPI_STATUS_IGNORE));
  }

  std::unique_ptr<SharedRegion> allocate_shared(std::size_t bytes) override {
    const FlightScope scope(recorder(), Activity::shared_window, bytes);
    return make_mpi_region(group_, topology_, bytes, recorder());
  }

  [[noreturn]] void abort(int code) override { MpiEnvironment::abort(code); }

 private:
  mpi::Comm world_;
  std::shared_ptr<const mpi::Comm> group_;
  Topology topology_;
  std::unique_ptr<NodeGather> node_gather_;  // null before share_gathers(), and without shared memory
};

mpi::Comm split_by_node(MPI_Comm comm) {
  MPI_Comm node = MPI_COMM_NULL;
  LOCKSTEP_MPI(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
  return mpi::Comm(node);
}

mpi::Comm split(MPI_Comm comm, int color, int key) {
  MPI_Comm part = MPI_COMM_NULL;
  LOCKSTEP_MPI(MPI_Comm_split(comm, color, key, &part));
  return mpi::Comm(part);
}

mpi::Comm duplicate(MPI_Comm comm) {
  MPI_Comm copy = MPI_COMM_NULL;
  mpi::Pending pending;
  LOCKSTEP_MPI(MPI_Comm_idup(comm, &copy, pending.get()));
  pending.wait("MPI_Comm_idup");
  return mpi::Comm(copy);
}

std::unique_ptr<MpiCommunicator> make(MpiEnvironment& mpi, const MpiOptions& options) {
  const FlightScope scope(mpi.recorder(), Activity::rendezvous);
  mpi::meet(MPI_COMM_WORLD);
  mpi::Comm node = split_by_node(MPI_COMM_WORLD);
  // A node is known by the lowest rank on it.
  struct Place {
    int node;
    int local;
    int world;
  };
  Place mine{mpi.world_rank(), node.rank(), mpi.world_rank()};
  mpi::Pending pending;
  LOCKSTEP_MPI(MPI_Ibcast(&mine.node, 1, MPI_INT, 0, node.get(), pending.get()));
  pending.wait("MPI_Ibcast");
  std::vector<Place> places(static_cast<std::size_t>(mpi.world_size()));
  LOCKSTEP_MPI(MPI_Iallgather(&mine, 3, MPI_INT, places.data(), 3, MPI_INT, MPI_COMM_WORLD, pending.get()));
  pending.wait("MPI_Iallgather");
  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return a.node != b.node ? a.node < b.node : a.local < b.local;
  });

  int limit = options.ranks_per_group > 0 ? options.ranks_per_group : mpi.world_size();
  if (!options.shared_memory) limit = 1;
  Topology t;
  t.size = mpi.world_size();
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (places[i].world == mpi.world_rank()) t.rank = static_cast<int>(i);
    if (i == 0 || places[i].node != places[i - 1].node || places[i].local % limit == 0) {
      t.group_begin.push_back(static_cast<int>(i));
    }
    t.group_of.push_back(static_cast<int>(t.group_begin.size()) - 1);
  }
  t.group_begin.push_back(t.size);
  // To split a communicator blocks inside MPI, so it is done only where nothing else serves.
  bool as_launched = true;
  for (int i = 0; i < t.size; ++i)
    as_launched = as_launched && places[static_cast<std::size_t>(i)].world == i;
  mpi::Comm world = as_launched ? duplicate(MPI_COMM_WORLD) : split(MPI_COMM_WORLD, 0, t.rank);
  mpi::Comm group;  // a group of one needs none
  if (limit >= t.size)
    group = std::move(node);
  else if (limit > 1)
    group = split(world.get(), t.group(), t.rank);
  return std::make_unique<MpiCommunicator>(std::move(world), std::move(group), std::move(t), mpi.recorder());
}

}  // namespace

MpiEnvironment::MpiEnvironment(int* argc, char*** argv, FlightRecorder* recorder) : recorder_(recorder) {
  const FlightScope scope(recorder_, Activity::mpi_init);
  int provided = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
    throw CommError(fmt::format("MPI could not start on {}", host_name()));
  }
  LOCKSTEP_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  LOCKSTEP_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  LOCKSTEP_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size_));
  if (provided < MPI_THREAD_MULTIPLE) {
    MPI_Finalize();
    throw CommError(
        fmt::format("{} does not let several threads call it (MPI_THREAD_MULTIPLE): use one that does",
                    library_version()));
  }
}

MpiEnvironment::~MpiEnvironment() {
  if (!mpi::may_free()) return;
  const FlightScope scope(recorder_, Activity::finalize);
  MPI_Finalize();
}

std::string MpiEnvironment::library_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  std::string version(text, static_cast<std::size_t>(length));
  return version.substr(0, version.find_first_of(",\n"));
}

void MpiEnvironment::abort(int code) {
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

std::unique_ptr<Communicator> make_mpi_communicator(MpiEnvironment& mpi, const MpiOptions& options) {
  return make(mpi, options);
}

std::unique_ptr<Communicator> make_world_communicator(MpiEnvironment& mpi, std::size_t bytes_per_rank,
                                                      const std::function<void(const std::string&)>& warn) {
  const char* off = std::getenv("LOCKSTEP_NO_SHARED_MEMORY");
  struct Space {
    std::uint64_t free;
    std::uint64_t needed;
    std::uint64_t off;
  };
  std::unique_ptr<MpiCommunicator> comm = make(mpi, {});
  // One rank needs no shared memory: its region is private.
  const auto ranks = static_cast<std::uint64_t>(comm->topology().group_size(comm->topology().group()));
  Space mine{};
  mine.needed =
      ranks > 1 ? ranks * (region_bytes(bytes_per_rank) + region_bytes(NodeGather::region_bytes)) : 0;
  mine.free = free_shared_memory();
  mine.off = off != nullptr && std::string(off) != "0" && *off != '\0' ? 1 : 0;
  std::vector<Space> all(static_cast<std::size_t>(comm->size()));
  comm->all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
  const bool forced = std::any_of(all.begin(), all.end(), [](const Space& s) { return s.off != 0; });
  const auto small = std::find_if(all.begin(), all.end(), [](const Space& s) { return s.free < s.needed; });
  if (!forced && small == all.end()) {
    comm->share_gathers();
    return comm;
  }

  const std::vector<std::string> hosts = comm->all_gather_text(host_name());
  comm = make(mpi, {.shared_memory = false});
  if (!forced && comm->rank() == 0 && warn) {
    warn(fmt::format(
        "/dev/shm on {} has {} bytes free and the ranks there need {}: they exchange messages instead of "
        "sharing "
        "memory, which is slower; give it more space (docker run --shm-size, or mount -o remount,size=)",
        hosts[static_cast<std::size_t>(small - all.begin())], small->free, small->needed));
  }
  return comm;
}

// NOLINTEND(clang-analyzer-optin.mpi.MPI-Checker)

}  // namespace lockstep
