#include "trainer/evaluate/output_file.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <span>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "core/error.h"
#include "trainer/evaluate/kept_files.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t buffered = std::size_t{1} << 16;
constexpr int most_attempts = 1000;  // at a name that another process may have

[[noreturn]] void refuse(const std::string& option, const std::string& path, const std::string& why) {
  throw InputError(fmt::format("{} {}: {}", option, path, why));
}

/// A link there may lead to the file that a shell has redirected a stream to: a rename would cut that off.
bool is_of_the_system(const std::string& path) {
  std::error_code ignored;
  const std::string whole = fs::absolute(path, ignored).lexically_normal().string();
  return whole.starts_with("/dev/") || whole.starts_with("/proc/");
}

/// Behind links, as far as they lead somewhere.
std::string behind_links(const std::string& path) {
  std::error_code error;
  if (!fs::is_symlink(path, error)) return path;
  const fs::path target = fs::weakly_canonical(path, error);
  return error ? path : target.string();
}

void refuse_kept(const std::string& option, const std::string& path, const std::vector<std::string>& kept) {
  std::error_code ignored;
  if (path == "-")
    refuse(option, path, "standard output has no name here; give a file (one that is called - is ./-)");
  if (const auto why = why_kept(path)) refuse(option, path, *why);
  for (const std::string& file : kept)
    if (fs::equivalent(path, file, ignored))
      refuse(option, path, "is a file of the run or of its data, which would be lost; name another");
}

/// By which the kernel lets an open file be named.
std::string path_of(int fd) {
  return fmt::format("/proc/self/fd/{}", fd);
}

std::string unused_name(const std::string& target) {
  static std::atomic<unsigned> serial{0};
  return fmt::format("{}.tmp.{}.o{}", target, ::getpid(), serial.fetch_add(1));
}

/// A file without a name yet, which is gone with the process however that ends. Nothing where the file system
/// has none of these.
FileDescriptor open_unnamed(const std::string& target) {
  const std::string folder = fs::path(target).parent_path().string();
  FileDescriptor fd(::open(folder.empty() ? "." : folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666));
  std::error_code ignored;
  if (fd && !fs::exists(path_of(fd.get()), ignored)) fd = FileDescriptor();  // it could not get a name later
  return fd;
}

}  // namespace

std::string replaceable_path(const std::string& option, const std::string& path,
                             const std::vector<std::string>& kept) {
  std::error_code ignored;
  refuse_kept(option, path, kept);
  if (is_of_the_system(path))
    refuse(option, path, "a file cannot take the place of what is there; name another");
  if (fs::exists(path, ignored) && !fs::is_regular_file(path, ignored))
    refuse(option, path, "is there already and is not a file; name a file");
  std::string target = behind_links(path);
  remove_leftovers(target);
  return target;
}

OutputFile::OutputFile(std::string option, const std::string& path, const std::vector<std::string>& kept)
    : option_(std::move(option)), path_(path) {
  std::error_code ignored;
  if (path.empty()) refuse(option_, "\"\"", "is no name of a file");
  if (fs::is_directory(path, ignored)) refuse(option_, path, "is a directory; name a file in it");
  refuse_kept(option_, path, kept);
  const bool exists = fs::exists(path, ignored);
  if (is_of_the_system(path) || (exists && !fs::is_regular_file(path, ignored))) {
    fd_ = FileDescriptor(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fd_)
      refuse(option_, path, fmt::format("it cannot be written: {}; name another", std::strerror(errno)));
    return;
  }
  target_ = behind_links(path);
  if (exists && ::access(target_.c_str(), W_OK) != 0)
    refuse(option_, path, fmt::format("it cannot be written: {}; name another", std::strerror(errno)));
  remove_leftovers(target_);
  fd_ = open_unnamed(target_);
  for (int attempt = 0; !fd_ && !writer_; ++attempt) {
    temporary_ = unused_name(target_);
    try {
      writer_ = std::make_unique<FileWriter>(temporary_);
    } catch (const InputError& e) {
      // Another host's process of this number may write there, too.
      if (attempt < most_attempts && fs::exists(temporary_, ignored)) continue;
      refuse(option_, path, fmt::format("it cannot be written: {}; name another", e.what()));
    }
  }
}

OutputFile::~OutputFile() = default;

void OutputFile::append(std::string_view text) {
  buffer_ += text;
  if (buffer_.size() >= buffered) flush();
}

void OutputFile::flush() {
  try {
    if (writer_)
      writer_->append(buffer_);
    else
      write_all(fd_.get(), std::as_bytes(std::span(buffer_)), path_);
  } catch (const InputError& e) {
    refuse(option_, path_, e.what());
  }
  buffer_.clear();
}

void OutputFile::close() {
  flush();
  if (target_.empty()) return;
  try {
    if (writer_)
      writer_->close();
    else
      name_unnamed();
  } catch (const InputError& e) {
    refuse(option_, path_, e.what());
  }
  writer_.reset();
  fd_ = FileDescriptor();
  try {
    rename_durably(temporary_, target_);
  } catch (const InputError& e) {
    ::unlink(temporary_.c_str());
    refuse(option_, path_, e.what());
  }
}

void OutputFile::name_unnamed() {
  if (::fsync(fd_.get()) != 0)
    throw InputError(fmt::format("it cannot be written: {}", std::strerror(errno)));
  for (int attempt = 0;; ++attempt) {
    temporary_ = unused_name(target_);
    if (::linkat(AT_FDCWD, path_of(fd_.get()).c_str(), AT_FDCWD, temporary_.c_str(), AT_SYMLINK_FOLLOW) == 0)
      return;
    if (errno != EEXIST || attempt >= most_attempts)
      throw InputError(fmt::format("it cannot be written: {}", std::strerror(errno)));
  }
}

}  // namespace lockstep
