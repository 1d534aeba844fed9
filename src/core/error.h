#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace lockstep {

/// What the process returns. The meaning of each value is fixed for users and launchers.
enum class ExitCode : int {
  done = 0,
  internal = 1,      ///< a defect of Lockstep, or an unexpected failure of the system
  input = 2,         ///< bad configuration, data or file: nothing was started
  diverged = 3,      ///< the loss or a gradient became non-finite, or passed a set bound
  peer = 4,          ///< another rank failed, hung or deviated
  preempted = 75,    ///< asked to stop; a checkpoint was saved, run again to go on
  interrupted = 130  ///< the same, asked by Ctrl-C: nobody is to start it again by himself
};

/// Base of everything that Lockstep throws. The text is one sentence for the user: what is wrong,
/// where (file, key, line or offset), and how to mend it. No trailing newline.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const noexcept { return code_; }
  /// Whether all ranks know of this failure and leave together, in order; else the rank that met it ends the
  /// others.
  bool agreed() const noexcept { return agreed_; }
  void mark_agreed() noexcept { agreed_ = true; }

 private:
  ExitCode code_;
  bool agreed_ = false;
};

/// A wrong key, value or command line.
class ConfigError : public Error {
 public:
  explicit ConfigError(const std::string& message) : Error(ExitCode::input, message) {}
};

/// A file or data set that cannot be used.
class InputError : public Error {
 public:
  explicit InputError(const std::string& message) : Error(ExitCode::input, message) {}
};

/// A device or one of its libraries refused a call.
class DeviceError : public Error {
 public:
  explicit DeviceError(const std::string& message) : Error(ExitCode::internal, message) {}
};

/// A collective failed, or a peer did.
class CommError : public Error {
 public:
  explicit CommError(const std::string& message) : Error(ExitCode::peer, message) {}
};

/// The training diverged.
class DivergenceError : public Error {
 public:
  explicit DivergenceError(const std::string& message) : Error(ExitCode::diverged, message) {}
};

/// A defect of Lockstep itself: a condition that no input can cause.
class InternalError : public Error {
 public:
  explicit InternalError(const std::string& message) : Error(ExitCode::internal, message) {}
};

/// Another rank has already reported this failure: leave with the same code and print nothing.
class SilentError : public Error {
 public:
  explicit SilentError(ExitCode code) : Error(code, "a peer has reported the failure") { mark_agreed(); }
};

/// Throws InternalError when `condition` does not hold. For conditions that no input can cause.
inline void require(bool condition, const char* what) {
  if (!condition) throw InternalError(what);
}

}  // namespace lockstep
