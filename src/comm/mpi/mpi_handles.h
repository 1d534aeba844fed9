#pragma once

// What only the MPI sources include: checked calls and handles that free themselves.

#include <cstddef>
// Without the C++ bindings that MPI has dropped, which do not compile without warnings.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#include <string>
#include <utility>

namespace lockstep::mpi {

/// Throws CommError with the call, MPI's own text, the rank and the host unless `code` is MPI_SUCCESS.
void check(int code, const char* call);

#define LOCKSTEP_MPI(call) ::lockstep::mpi::check((call), #call)

/// True while freeing handles together with the other ranks makes sense: MPI runs, and no exception unwinds.
bool may_free();

/// What a call that does not block has begun. A call of MPI's that blocks looks for messages without a pause
/// however long it lasts, which takes the cpu from whoever the rank waits for, and from watchdogs, where
/// cores are scarce. wait() sleeps between looks when it takes longer.
class Pending {
 public:
  /// For the call that begins it.
  MPI_Request* get() { return &request_; }
  /// Returns when it is complete; `call` began it. Throws CommError when it fails.
  void wait(const char* call);

 private:
  MPI_Request request_ = MPI_REQUEST_NULL;
};

/// (all of `comm`) Returns when all have entered. It also goes before calls of MPI's that can only block, so
/// that nobody is awaited inside of them.
void meet(MPI_Comm comm);

/// A communicator of our own whose errors come back as codes.
class Comm {
 public:
  Comm() = default;
  explicit Comm(MPI_Comm comm) : comm_(comm) {
    if (comm_ != MPI_COMM_NULL)
      check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  Comm(Comm&& other) noexcept : comm_(std::exchange(other.comm_, MPI_COMM_NULL)) {}
  Comm& operator=(Comm&& other) noexcept {
    std::swap(comm_, other.comm_);
    return *this;
  }
  ~Comm() {
    if (comm_ != MPI_COMM_NULL && may_free()) MPI_Comm_free(&comm_);
  }
  MPI_Comm get() const { return comm_; }
  int rank() const;
  int size() const;

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
};

/// `bytes` bytes as a count that fits an int and a datatype, which for more than 2 GiB is made for the
/// purpose.
class Bytes {
 public:
  explicit Bytes(std::size_t bytes);
  ~Bytes();
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  int count() const { return count_; }
  MPI_Datatype type() const { return type_; }

 private:
  int count_ = 0;
  MPI_Datatype type_ = MPI_BYTE;
  bool own_ = false;
};

}  // namespace lockstep::mpi
