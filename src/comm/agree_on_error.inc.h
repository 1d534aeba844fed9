#pragma once

#include <exception>

#include "comm/communicator.h"
#include "core/error.h"

namespace lockstep {

template <class Body>
void agree_on_error(Communicator& comm, Body&& body) {
  std::exception_ptr failure;
  int code = 0;
  try {
    body();
  } catch (Error& e) {
    e.mark_agreed();
    failure = std::current_exception();
    code = static_cast<int>(e.code());
  } catch (const std::exception& e) {
    InternalError error(e.what());
    error.mark_agreed();
    failure = std::make_exception_ptr(error);
    code = static_cast<int>(ExitCode::internal);
  }
  const Verdict verdict = agree(comm, code);
  if (verdict.code == 0) return;
  if (verdict.lowest_failed == comm.rank()) std::rethrow_exception(failure);
  throw SilentError(static_cast<ExitCode>(verdict.code));
}

/// (all) Throws what all ranks know of: `error`, as agreed, on rank 0, SilentError with its code on the
/// others.
template <class E>
[[noreturn]] void throw_on_all(const Communicator& comm, E error) {
  if (comm.rank() != 0) throw SilentError(error.code());
  error.mark_agreed();
  throw error;
}

/// (all) For a body that throws alike on every rank: rank 0 keeps the error, the others get SilentError.
template <class Body>
auto report_once(const Communicator& comm, Body&& body) {
  try {
    return body();
  } catch (SilentError&) {
    throw;
  } catch (Error& e) {
    if (comm.rank() != 0) throw SilentError(e.code());
    e.mark_agreed();
    throw;
  }
}

}  // namespace lockstep
