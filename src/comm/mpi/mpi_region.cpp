#include "comm/mpi/mpi_region.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <vector>

#include "comm/mpi/mpi_communicator.h"
#include "core/error.h"
#include "core/flight_recorder.h"
#include "device/memory.h"

namespace lockstep {
namespace {

class PrivateRegion final : public SharedRegion {
 public:
  PrivateRegion(int rank, std::size_t bytes)
      : rank_(rank), bytes_(bytes), memory_(std::max<std::size_t>(bytes, 1)) {}
  std::byte* base(int rank) const override { return rank == rank_ ? memory_.data() : nullptr; }
  std::size_t bytes() const override { return bytes_; }

 private:
  int rank_;
  std::size_t bytes_;
  mutable HostBuffer memory_;
};

class WindowRegion final : public SharedRegion {
 public:
  WindowRegion(std::shared_ptr<const mpi::Comm> group, const Topology& topology, std::size_t bytes,
               FlightRecorder* recorder)
      : group_(std::move(group)),
        recorder_(recorder),
        first_(topology.group_begin[static_cast<std::size_t>(topology.group())]),
        bytes_(bytes) {
    mpi::meet(group_->get());
    // Parts on pages of their own: each lies in the memory of the rank that touches it first.
    MPI_Info info = MPI_INFO_NULL;
    LOCKSTEP_MPI(MPI_Info_create(&info));
    LOCKSTEP_MPI(MPI_Info_set(info, "alloc_shared_noncontig", "true"));
    void* unaligned = nullptr;
    const int code = MPI_Win_allocate_shared(static_cast<MPI_Aint>(region_bytes(bytes)), 1, info,
                                             group_->get(), static_cast<void*>(&unaligned), &window_);
    MPI_Info_free(&info);
    mpi::check(code, "MPI_Win_allocate_shared");
    LOCKSTEP_MPI(MPI_Win_set_errhandler(window_, MPI_ERRORS_RETURN));
    // One access epoch for the window's whole life: ranks then order their accesses by atomics.
    LOCKSTEP_MPI(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_));
    const int ranks = topology.group_size(topology.group());
    for (int r = 0; r < ranks; ++r) {
      MPI_Aint size = 0;
      int unit = 0;
      void* part = nullptr;
      LOCKSTEP_MPI(MPI_Win_shared_query(window_, r, &size, &unit, static_cast<void*>(&part)));
      // Open MPI's parts begin 8 bytes past a cache line. A window is mapped at whole pages, so every rank
      // that aligns a part's address finds the same byte.
      const auto address = reinterpret_cast<std::uintptr_t>(part);
      bases_.push_back(static_cast<std::byte*>(part) + (align_up(address, page_bytes()) - address));
    }
    std::byte* mine = bases_[static_cast<std::size_t>(topology.local_rank())];
    ::madvise(mine, align_up(bytes, page_bytes()),
              MADV_HUGEPAGE);  // advice: where the kernel does not follow, nothing is lost
    std::memset(mine, 0, bytes);
    LOCKSTEP_MPI(MPI_Win_sync(window_));
    mpi::meet(group_->get());
  }
  ~WindowRegion() override {
    // Freeing is collective: while an exception unwinds, the peers may never come.
    if (window_ == MPI_WIN_NULL || !mpi::may_free()) return;
    const FlightScope scope(recorder_, Activity::free_window);
    try {
      mpi::meet(group_->get());
    } catch (const CommError&) {
      return;  // the window goes with the process; should others be there, the watchdog ends them
    }
    MPI_Win_unlock_all(window_);
    MPI_Win_free(&window_);
  }
  WindowRegion(const WindowRegion&) = delete;
  WindowRegion& operator=(const WindowRegion&) = delete;

  std::byte* base(int rank) const override {
    const int local = rank - first_;
    return local >= 0 && local < static_cast<int>(bases_.size()) ? bases_[static_cast<std::size_t>(local)]
                                                                 : nullptr;
  }
  std::size_t bytes() const override { return bytes_; }

 private:
  std::shared_ptr<const mpi::Comm> group_;
  FlightRecorder* recorder_;
  int first_;
  std::size_t bytes_;
  MPI_Win window_ = MPI_WIN_NULL;
  std::vector<std::byte*> bases_;
};

}  // namespace

std::size_t region_bytes(std::size_t bytes) {
  return align_up(bytes, page_bytes()) + page_bytes();
}

std::uint64_t free_shared_memory() {
  std::uint64_t free = std::numeric_limits<std::uint64_t>::max();
  struct statvfs fs {};
  // Where there is no /dev/shm, MPI takes a directory of its own, about which nothing is known.
  if (::statvfs("/dev/shm", &fs) == 0)
    free = (fs.f_flag & ST_RDONLY) != 0 ? 0 : std::uint64_t{fs.f_bavail} * fs.f_frsize;
  if (const char* limit = std::getenv("LOCKSTEP_SHM_LIMIT_BYTES")) {
    free = std::min<std::uint64_t>(free, std::strtoull(limit, nullptr, 10));
  }
  return free;
}

std::unique_ptr<SharedRegion> make_mpi_region(std::shared_ptr<const mpi::Comm> group,
                                              const Topology& topology, std::size_t bytes,
                                              FlightRecorder* recorder) {
  if (topology.group_size(topology.group()) == 1)
    return std::make_unique<PrivateRegion>(topology.rank, bytes);
  return std::make_unique<WindowRegion>(std::move(group), topology, bytes, recorder);
}

}  // namespace lockstep
