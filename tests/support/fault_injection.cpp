// A library for LD_PRELOAD that counts the calls by which files below one directory change, and spoils one of
// them. Built with the tests only. Read from the environment:
//   LOCKSTEP_FAULT_DIR    the directory: calls that concern a path below it count
//   LOCKSTEP_FAULT_AT     the number of the call to spoil, from 1; 0 or unset: none
//   LOCKSTEP_FAULT_KIND   kill (SIGKILL before the call), stop (SIGSTOP before it; then it is done), enospc,
//   eio, short (a write of half the bytes, and
//                         ENOSPC for whatever is written to that file after it)
//   LOCKSTEP_FAULT_RANK   the rank that counts (OMPI_COMM_WORLD_RANK, 0 without a launcher); default 0
//   LOCKSTEP_FAULT_LOG    a file, outside the directory, that gets a line a call: "<number> <call> <path>"
// Fsync, write and pwrite go by descriptor, so their path is looked up in /proc/self/fd.

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <mutex>
#include <signal.h>
#include <string>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

namespace {

enum class Verdict { go, fail, shorten };

struct Faults {
  std::string directory;
  long at = 0;
  std::string kind;
  int log = -1;
  bool mine = false;
  std::atomic<long> calls{0};
  std::mutex mutex;
  std::string full;  // the file that takes no more bytes after a short write

  Faults() {
    const char* dir = std::getenv("LOCKSTEP_FAULT_DIR");
    if (dir == nullptr || *dir == '\0') return;
    directory = std::string(dir) + "/";
    const char* self = std::getenv("OMPI_COMM_WORLD_RANK");
    const char* rank = std::getenv("LOCKSTEP_FAULT_RANK");
    mine = std::atoi(self != nullptr ? self : "0") == std::atoi(rank != nullptr ? rank : "0");
    if (const char* n = std::getenv("LOCKSTEP_FAULT_AT")) at = std::atol(n);
    if (const char* k = std::getenv("LOCKSTEP_FAULT_KIND")) kind = k;
    const char* file = std::getenv("LOCKSTEP_FAULT_LOG");
    if (mine && file != nullptr)
      log = static_cast<int>(
          syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  }

  bool concerns(const char* path) const {
    return mine && path != nullptr && std::string_view(path).starts_with(directory);
  }

  Verdict judge(const char* call, const char* path) {
    if (!concerns(path)) return Verdict::go;
    const long number = ++calls;
    if (log >= 0) {
      const std::string line = std::to_string(number) + " " + call + " " + path + "\n";
      if (syscall(SYS_write, log, line.data(), line.size()) < 0) std::abort();
    }
    if (number != at) return Verdict::go;
    if (kind == "kill") {
      ::kill(::getpid(), SIGKILL);
      ::pause();
    }
    if (kind == "stop") {
      ::kill(::getpid(), SIGSTOP);
      return Verdict::go;
    }
    if (kind == "short") return Verdict::shorten;
    errno = kind == "enospc" ? ENOSPC : EIO;
    return Verdict::fail;
  }
};

Faults& faults() {
  static Faults f;
  return f;
}

std::string path_of(int fd) {
  char link[64], path[4096];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = ::readlink(link, path, sizeof path);
  return n > 0 ? std::string(path, static_cast<std::size_t>(n)) : std::string();
}

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

/// A write of `bytes` bytes through `real(bytes)`.
template <class Real>
ssize_t judged_write(const char* call, int fd, std::size_t bytes, Real&& real) {
  Faults& f = faults();
  if (!f.mine) return real(bytes);
  const std::string path = path_of(fd);
  // A lease is renewed by time: counted, it would make the numbers of the others differ from run to run.
  if (!f.concerns(path.c_str()) || path.ends_with("/lease.json")) return real(bytes);
  {
    const std::lock_guard lock(f.mutex);
    if (path == f.full) {
      errno = ENOSPC;
      return -1;
    }
  }
  switch (f.judge(call, path.c_str())) {
    case Verdict::fail:
      return -1;
    case Verdict::shorten: {
      const std::lock_guard lock(f.mutex);
      f.full = path;
      return real(bytes / 2);
    }
    case Verdict::go:
      break;
  }
  return real(bytes);
}

bool refused(const char* call, const char* path) {
  const Verdict verdict = faults().judge(call, path);
  if (verdict == Verdict::shorten) errno = ENOSPC;  // nothing to shorten
  return verdict != Verdict::go;
}

bool refused_fd(const char* call, int fd) {
  return faults().mine && refused(call, path_of(fd).c_str());
}

mode_t mode_in(int flags, std::va_list list) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? static_cast<mode_t>(va_arg(list, int)) : 0;
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* data, size_t bytes) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  return judged_write("write", fd, bytes, [&](std::size_t n) { return real(fd, data, n); });
}

ssize_t pwrite(int fd, const void* data, size_t bytes, off_t offset) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite");
  return judged_write("pwrite", fd, bytes, [&](std::size_t n) { return real(fd, data, n, offset); });
}

ssize_t pwrite64(int fd, const void* data, size_t bytes, off64_t offset) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t, off64_t)>("pwrite64");
  return judged_write("pwrite", fd, bytes, [&](std::size_t n) { return real(fd, data, n, offset); });
}

int fsync(int fd) {
  static const auto real = next<int (*)(int)>("fsync");
  return refused_fd("fsync", fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
  static const auto real = next<int (*)(int)>("fdatasync");
  return refused_fd("fdatasync", fd) ? -1 : real(fd);
}

int open(const char* path, int flags, ...) {
  static const auto real = next<int (*)(const char*, int, mode_t)>("open");
  std::va_list list;
  va_start(list, flags);
  const mode_t mode = mode_in(flags, list);
  va_end(list);
  if ((flags & O_CREAT) != 0 && refused("open", path)) return -1;
  return real(path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  static const auto real = next<int (*)(const char*, int, mode_t)>("open64");
  std::va_list list;
  va_start(list, flags);
  const mode_t mode = mode_in(flags, list);
  va_end(list);
  if ((flags & O_CREAT) != 0 && refused("open", path)) return -1;
  return real(path, flags, mode);
}

int mkdir(const char* path, mode_t mode) {
  static const auto real = next<int (*)(const char*, mode_t)>("mkdir");
  return refused("mkdir", path) ? -1 : real(path, mode);
}

int rename(const char* from, const char* to) {
  static const auto real = next<int (*)(const char*, const char*)>("rename");
  return refused("rename", to) ? -1 : real(from, to);
}

int renameat2(int from_fd, const char* from, int to_fd, const char* to, unsigned flags) {
  static const auto real = next<int (*)(int, const char*, int, const char*, unsigned)>("renameat2");
  return refused("rename", to) ? -1 : real(from_fd, from, to_fd, to, flags);
}

int unlinkat(int directory, const char* path, int flags) {
  static const auto real = next<int (*)(int, const char*, int)>("unlinkat");
  if (faults().mine && path[0] != '/' && directory != AT_FDCWD) {
    if (refused("unlink", (path_of(directory) + "/" + path).c_str())) return -1;
  } else if (refused("unlink", path)) {
    return -1;
  }
  return real(directory, path, flags);
}

}  // extern "C"
