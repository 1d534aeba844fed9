#pragma once

#include <exception>

#include "core/error.h"

namespace lockstep {

template <class Body>
void together(Communicator& comm, Body&& body) {
  std::exception_ptr failure;
  int code = 0;
  try {
    body();
  } catch (const Error& e) {
    failure = std::current_exception();
    code = static_cast<int>(e.code());
  } catch (const std::exception&) {
    failure = std::current_exception();
    code = static_cast<int>(ExitCode::internal);
  }
  const Verdict verdict = agree(comm, code);
  if (verdict.code == 0) return;
  if (verdict.lowest_failed == comm.rank()) std::rethrow_exception(failure);
  throw SilentError(static_cast<ExitCode>(verdict.code));
}

}  // namespace lockstep
