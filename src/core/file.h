#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/digest.h"

// Files as Lockstep needs them: reading whole, and writing whole or not at all. Every failure is an
// InputError that names the path and gives the system's own reason. No function here is collective.

namespace lockstep {

/// A file descriptor that is closed with its owner. Move-only.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) noexcept : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  /// Gives the descriptor up; the caller closes it.
  int release() noexcept;

 private:
  int fd_ = -1;
};

/// Whether a reader takes a file of no bytes.
enum class Empty { refuse, allow };

/// The content of a regular file. The error tells apart what does not exist, is a directory or something else
/// than a file, may not be read, fails while it is read, does not fit into memory, or (unless allowed) is
/// empty.
std::string read_file(const std::string& path, Empty empty = Empty::refuse);

/// A regular file mapped for reading; errors as in read_file. Whoever cuts the file short meanwhile ends this
/// process with SIGBUS, so only files that are replaced by rename are to be read in this way. Move-only.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path, Empty empty = Empty::refuse);
  std::size_t size() const noexcept { return data_ ? data_.get_deleter().size : 0; }
  std::span<const std::byte> bytes() const noexcept { return {data_.get(), size()}; }

 private:
  struct Unmap {
    std::size_t size;
    void operator()(const std::byte* data) const noexcept;
  };
  std::unique_ptr<const std::byte, Unmap> data_{nullptr, Unmap{0}};
};

/// Writes all of `bytes` to `fd`, whatever short writes and interruptions come between. `path` is for
/// messages.
void write_all(int fd, std::span<const std::byte> bytes, const std::string& path);

/// Replaces the file `path` by one that holds `bytes`: at every moment, also after a power failure, there is
/// the old file or the new one, whole. When it throws, the old file stands. Safe against other writers of the
/// same path. `before_rename`, where given, is called when all is written but the name: when it throws, that
/// is as if writing had failed.
void write_file_atomic(const std::string& path, std::span<const std::byte> bytes,
                       const std::function<void()>& before_rename = {});
void write_file_atomic(const std::string& path, std::string_view text,
                       const std::function<void()>& before_rename = {});

/// Removes what killed processes have left of files that were to become `path`: "<path>.tmp.<pid>.<n>", also
/// with a letter before the last number. What is locked by a writer, on any host, stays, and so does what a
/// process of this host may be about to rename, and everything where the file system has no locks.
void remove_leftovers(const std::string& path) noexcept;

/// A new file that is written front to back. Unless close() has succeeded the file is removed again, so a
/// half-written one does not survive this object (it does survive the process being killed). Until close() it
/// is locked (flock), where the file system has locks: who finds it unlocked knows that its writer is dead.
class FileWriter {
 public:
  enum class Hash { none, sha256 };
  /// Creates `path`, which must not exist.
  explicit FileWriter(std::string path, Hash hash = Hash::none);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  const std::string& path() const noexcept { return path_; }
  /// Bytes appended so far.
  std::uint64_t size() const noexcept { return size_; }
  void append(std::span<const std::byte> bytes);
  void append(std::string_view text);
  /// Makes the content durable (fsync) and closes. The directory entry is durable after sync_directory().
  void close();
  /// After close(), with Hash::sha256: the SHA-256 of all that was appended, as 64 hexadecimal digits.
  std::string sha256() const;

 private:
  std::string path_;
  FileDescriptor fd_;
  std::optional<Sha256> hash_;
  std::string sha256_;
  std::uint64_t size_ = 0;
};

/// Renames `from` to `to`, replacing a file there, and makes the change durable.
void rename_durably(const std::string& from, const std::string& to);

/// Makes the entries of a directory durable. File systems that cannot do so are taken at their word.
void sync_directory(const std::string& path);

/// Creates a directory, durably. True if this call made it; false if something of that name was there.
bool create_directory_exclusive(const std::string& path);

/// The directory that holds `path`: "." for a bare name.
std::string parent_directory(const std::string& path);

/// Sees to it that this process may have `needed` files open at once: its own limit is raised as far as the
/// system lets it. Throws InputError, with the command that mends it, where that is not enough.
void allow_open_files(std::uint64_t needed);

/// Bytes that an ordinary user may still write to the file system that holds `path`.
std::uint64_t free_bytes(const std::string& path);

}  // namespace lockstep
