#include "comm/mpi/mpi_handles.h"

#include <climits>
#include <exception>
#include <fmt/format.h>

#include "core/error.h"
#include "device/cpu_info.h"
#include "device/lane_pool.h"

namespace lockstep::mpi {

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  int rank = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  throw CommError(
      fmt::format("{} failed on rank {} of MPI's world on {}: {}", call, rank, host_name(), text));
}

bool may_free() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  return finalized == 0 && std::uncaught_exceptions() == 0;
}

void Pending::wait(const char* call) {
  int done = 0;
  for (unsigned spins = 0; done == 0;) {
    check(MPI_Test(&request_, &done, MPI_STATUS_IGNORE), call);
    if (done == 0) relax(spins);
  }
}

void meet(MPI_Comm comm) {
  Pending pending;
  LOCKSTEP_MPI(MPI_Ibarrier(comm, pending.get()));
  pending.wait("MPI_Ibarrier");
}

int Comm::rank() const {
  int rank = 0;
  LOCKSTEP_MPI(MPI_Comm_rank(comm_, &rank));
  return rank;
}

int Comm::size() const {
  int size = 0;
  LOCKSTEP_MPI(MPI_Comm_size(comm_, &size));
  return size;
}

Bytes::Bytes(std::size_t bytes) {
  if (bytes <= static_cast<std::size_t>(INT_MAX)) {
    count_ = static_cast<int>(bytes);
    return;
  }
  // Whole MiB and a rest, as one element of one type.
  constexpr int unit = 1 << 20;
  const std::size_t units = bytes / unit;
  require(units <= static_cast<std::size_t>(INT_MAX), "a message of more than 2 PiB");
  MPI_Datatype block = MPI_DATATYPE_NULL;
  MPI_Datatype blocks = MPI_DATATYPE_NULL;
  LOCKSTEP_MPI(MPI_Type_contiguous(unit, MPI_BYTE, &block));
  LOCKSTEP_MPI(MPI_Type_contiguous(static_cast<int>(units), block, &blocks));
  const int lengths[] = {1, static_cast<int>(bytes % unit)};
  const MPI_Aint places[] = {0, static_cast<MPI_Aint>(units * unit)};
  const MPI_Datatype types[] = {blocks, MPI_BYTE};
  LOCKSTEP_MPI(MPI_Type_create_struct(2, lengths, places, types, &type_));
  LOCKSTEP_MPI(MPI_Type_commit(&type_));
  MPI_Type_free(&blocks);
  MPI_Type_free(&block);
  count_ = 1;
  own_ = true;
}

Bytes::~Bytes() {
  if (own_) MPI_Type_free(&type_);
}

}  // namespace lockstep::mpi
