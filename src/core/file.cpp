#include "core/file.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <limits>
#include <new>
#include <stdexcept>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/text.h"

namespace lockstep {
namespace {

std::string reason(int error) {
  return std::generic_category().message(error);
}

/// How to mend a failed call; empty when the system's reason says all there is to say.
const char* remedy(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return "; check the path";
    case EACCES:
    case EPERM:
      return "; check the permissions";
    case EROFS:
      return "; choose a place that can be written";
    case ENOSPC:
    case EDQUOT:
      return "; make room or choose another place";
    case EEXIST:
      return "; remove it or choose another name";
    default:
      return "";
  }
}

[[noreturn]] void fail(const char* what, const std::string& path, int error) {
  throw InputError(fmt::format("cannot {} '{}': {}{}", what, path, reason(error), remedy(error)));
}

/// A path as the system takes it. A NUL byte would silently name another file.
const char* c_path(const std::string& path) {
  if (path.find('\0') != std::string::npos) throw InputError("a file name holds a NUL byte; check the path");
  return path.c_str();
}

FileDescriptor open_for_reading(const std::string& path, struct stat& status) {
  // Without O_NONBLOCK, opening a pipe that nobody writes to would hang.
  FileDescriptor fd(::open(c_path(path), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR)
      throw InputError(fmt::format("'{}' does not exist; check the path", path));
    fail("read", path, error);
  }
  if (::fstat(fd.get(), &status) != 0) fail("read", path, errno);
  if (S_ISDIR(status.st_mode)) throw InputError(fmt::format("'{}' is a directory; name a file", path));
  if (!S_ISREG(status.st_mode))
    throw InputError(fmt::format("'{}' is not a regular file; name a file", path));
  return fd;
}

[[noreturn]] void fail_empty(const std::string& path) {
  throw InputError(fmt::format("'{}' is empty; name a file with content", path));
}

[[noreturn]] void fail_too_large(const std::string& path, std::uint64_t size) {
  throw InputError(fmt::format("'{}' of {} does not fit into memory", path, human_bytes(size)));
}

void sync_file(int fd, const std::string& path) {
  while (::fsync(fd) != 0) {
    if (errno != EINTR) fail("write", path, errno);
  }
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  // Whoever needs to know whether closing succeeds, as FileWriter does, takes the descriptor back first.
  if (fd_ >= 0) ::close(fd_);
}

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    FileDescriptor old(std::exchange(fd_, other.release()));
  }
  return *this;
}

int FileDescriptor::release() noexcept {
  return std::exchange(fd_, -1);
}

std::string read_file(const std::string& path, Empty empty) {
  struct stat status {};
  const FileDescriptor fd = open_for_reading(path, status);
  std::string content;
  std::size_t used = 0;
  try {
    // The size is a hint: files under /proc say 0, and a file may grow while it is read.
    content.resize(static_cast<std::size_t>(std::max<off_t>(status.st_size, 0)) + 1);
    for (;;) {
      if (used == content.size()) content.resize(content.size() * 2 + 4096);
      const ssize_t n = ::read(fd.get(), content.data() + used, content.size() - used);
      if (n == 0) break;
      if (n > 0) {
        used += static_cast<std::size_t>(n);
      } else if (errno != EINTR) {
        fail("read", path, errno);
      }
    }
  } catch (const std::bad_alloc&) {
    fail_too_large(path, std::max(static_cast<std::uint64_t>(status.st_size), std::uint64_t{used}));
  } catch (const std::length_error&) {
    fail_too_large(path, std::max(static_cast<std::uint64_t>(status.st_size), std::uint64_t{used}));
  }
  content.resize(used);
  if (used == 0 && empty == Empty::refuse) fail_empty(path);
  return content;
}

void MappedFile::Unmap::operator()(const std::byte* data) const noexcept {
  ::munmap(const_cast<std::byte*>(data), size);
}

MappedFile::MappedFile(const std::string& path, Empty empty) {
  struct stat status {};
  const FileDescriptor fd = open_for_reading(path, status);
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) {
    if (empty == Empty::refuse) fail_empty(path);
    return;
  }
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (data == MAP_FAILED) fail("map", path, errno);
  data_ = std::unique_ptr<const std::byte, Unmap>(static_cast<const std::byte*>(data), Unmap{size});
}

void write_all(int fd, std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    } else if (n == 0) {
      fail("write", path, EIO);
    } else if (errno != EINTR) {
      fail("write", path, errno);
    }
  }
}

namespace {

/// The pid in "<name>.tmp.<pid>.<n>", or nothing.
std::optional<std::int64_t> writer_of(std::string_view file, const std::string& name) {
  const std::string prefix = name + ".tmp.";
  if (!file.starts_with(prefix)) return std::nullopt;
  const std::vector<std::string_view> numbers = split(file.substr(prefix.size()), '.');
  const auto digits = [](std::string_view text) {
    return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
  };
  if (numbers.size() != 2 || !digits(numbers[0])) return std::nullopt;
  if (!digits(numbers[1].substr(numbers[1].starts_with('o') ? 1 : 0))) return std::nullopt;
  return parse_int64(numbers[0]);
}

}  // namespace

void remove_leftovers(const std::string& path) noexcept {
  try {
    const std::string folder = parent_directory(path);
    const std::string name = std::filesystem::path(path).filename().string();
    if (name.empty()) return;
    std::error_code error;
    std::filesystem::directory_iterator at(folder, error), end;
    for (; !error && at != end; at.increment(error)) {
      const auto pid = writer_of(at->path().filename().string(), name);
      if (!pid || *pid < 1 || *pid > std::numeric_limits<pid_t>::max()) continue;
      if (::kill(static_cast<pid_t>(*pid), 0) == 0 || errno != ESRCH) continue;
      const FileDescriptor fd(::open(at->path().c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
      struct stat status {};
      if (!fd || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) continue;
      if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) ::unlink(at->path().c_str());
    }
  } catch (const std::exception&) {
    // They take room and nothing else.
  }
}

FileWriter::FileWriter(std::string path, Hash hash)
    : path_(std::move(path)), fd_(::open(c_path(path_), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) {
  if (!fd_) fail("create", path_, errno);
  ::flock(fd_.get(), LOCK_EX | LOCK_NB);
  if (hash == Hash::sha256) hash_.emplace();
}

FileWriter::~FileWriter() {
  if (fd_) ::unlink(path_.c_str());
}

void FileWriter::append(std::span<const std::byte> bytes) {
  require(static_cast<bool>(fd_), "FileWriter: append after close");
  write_all(fd_.get(), bytes, path_);
  size_ += bytes.size();
  if (hash_) hash_->update(bytes);
}

void FileWriter::append(std::string_view text) {
  append(std::as_bytes(std::span(text.data(), text.size())));
}

void FileWriter::close() {
  require(static_cast<bool>(fd_), "FileWriter: closed twice");
  sync_file(fd_.get(), path_);
  // Linux has closed the descriptor whatever close() says. After an fsync, EINTR can hide no lost data.
  if (::close(fd_.release()) != 0 && errno != EINTR) {
    const int error = errno;
    ::unlink(path_.c_str());
    fail("write", path_, error);
  }
  if (hash_) sha256_ = hash_->hex();
}

std::string FileWriter::sha256() const {
  require(!sha256_.empty(), "FileWriter: no hash was asked for, or the file is still open");
  return sha256_;
}

std::string parent_directory(const std::string& path) {
  std::size_t end = path.size();
  while (end > 1 && path[end - 1] == '/') --end;
  const std::size_t slash = path.rfind('/', end - 1);
  if (path.empty() || slash == std::string::npos || end == 0) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

void sync_directory(const std::string& path) {
  const FileDescriptor fd(::open(c_path(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) fail("open the directory", path, errno);
  while (::fsync(fd.get()) != 0) {
    // Some network and user-space file systems know no fsync of a directory.
    if (errno == EINVAL || errno == ENOTSUP) return;
    if (errno != EINTR) fail("write the directory", path, errno);
  }
}

void rename_durably(const std::string& from, const std::string& to) {
  if (::rename(c_path(from), c_path(to)) != 0) fail("replace", to, errno);
  sync_directory(parent_directory(to));
}

void write_file_atomic(const std::string& path, std::span<const std::byte> bytes,
                       const std::function<void()>& before_rename) {
  // The serial number keeps the threads of a process apart, its id the processes of one host, and the
  // exclusive creation those of several.
  static std::atomic<std::uint32_t> serial{0};
  for (int attempt = 0;; ++attempt) {
    const std::string temporary = fmt::format("{}.tmp.{}.{}", path, ::getpid(), serial.fetch_add(1));
    struct stat status {};
    if (attempt < 1000 && ::lstat(c_path(temporary), &status) == 0) continue;
    std::optional<FileWriter> file;
    try {
      file.emplace(temporary);
    } catch (const InputError&) {
      if (attempt < 1000 && ::lstat(temporary.c_str(), &status) == 0) continue;
      throw;
    }
    file->append(bytes);
    file->close();
    try {
      if (before_rename) before_rename();
      rename_durably(temporary, path);
    } catch (...) {
      ::unlink(temporary.c_str());  // a no-op once the rename itself has succeeded
      throw;
    }
    return;
  }
}

void write_file_atomic(const std::string& path, std::string_view text,
                       const std::function<void()>& before_rename) {
  write_file_atomic(path, std::as_bytes(std::span(text.data(), text.size())), before_rename);
}

bool create_directory_exclusive(const std::string& path) {
  if (::mkdir(c_path(path), 0777) != 0) {
    if (errno == EEXIST) return false;
    fail("create the directory", path, errno);
  }
  sync_directory(parent_directory(path));
  return true;
}

void allow_open_files(std::uint64_t needed) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, needed);
  if (limit.rlim_cur == needed && ::setrlimit(RLIMIT_NOFILE, &limit) == 0) return;
  throw InputError(
      fmt::format("the limit of open files is {}, and {} are needed: raise it in the shell with ulimit -n {}",
                  limit.rlim_max, needed, needed));
}

std::uint64_t free_bytes(const std::string& path) {
  struct statvfs status {};
  while (::statvfs(c_path(path), &status) != 0) {
    if (errno != EINTR) fail("look at the free space of", path, errno);
  }
  return std::uint64_t{status.f_bavail} * status.f_frsize;
}

}  // namespace lockstep
