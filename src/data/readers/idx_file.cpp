#include "data/readers/idx_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

namespace lockstep {

IdxFile::IdxFile(const std::string& path, const std::string& key, FileAccess access)
    : header_(read_idx_header(path, key)), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (!file_)
    throw InputError(fmt::format("cannot open the data file {}: {}", header_.origin, std::strerror(errno)));
  header_bytes_ = 4 + 4 * header_.dims.size();
  const std::uint64_t bytes = static_cast<std::uint64_t>(header_.elements()) * header_.element_bytes();
  sample_bytes_ = static_cast<std::size_t>(bytes) / static_cast<std::size_t>(header_.dims[0]);
  size_ = header_bytes_ + bytes;
  check();
  if (access == FileAccess::map) map_ = GuardedMap(file_.get(), static_cast<std::size_t>(size_), path);
}

std::span<const std::byte> IdxFile::view(std::int64_t sample) const noexcept {
  if (map_.bytes().empty()) return {};
  return map_.bytes().subspan(
      static_cast<std::size_t>(header_bytes_) + static_cast<std::size_t>(sample) * sample_bytes_,
      sample_bytes_);
}

void IdxFile::read(std::int64_t sample, std::span<std::byte> out) const {
  require(sample >= 0 && sample < samples() && out.size() == sample_bytes_,
          "a sample outside its file, or a buffer of another size");
  read_bytes(static_cast<std::uint64_t>(sample) * sample_bytes_, out);
}

void IdxFile::read_bytes(std::uint64_t at, std::span<std::byte> out) const {
  require(at + out.size() <= data_bytes(), "bytes outside their file");
  at += header_bytes_;
  if (!map_.bytes().empty()) {
    const auto from = map_.bytes().subspan(static_cast<std::size_t>(at), out.size());
    std::copy(from.begin(), from.end(), out.begin());
    return;
  }
  while (!out.empty()) {
    const ssize_t got = ::pread(file_.get(), out.data(), out.size(), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(fmt::format("cannot be read: {}", std::strerror(errno)));
    if (got == 0) check();
    if (got == 0) fail("ends before its last sample");
    out = out.subspan(static_cast<std::size_t>(got));
    at += static_cast<std::uint64_t>(got);
  }
}

void IdxFile::check() const {
  struct stat status {};
  if (::fstat(file_.get(), &status) != 0) fail(fmt::format("cannot be examined: {}", std::strerror(errno)));
  const auto now = static_cast<std::uint64_t>(status.st_size);
  if (now < size_)
    fail(fmt::format("was cut short while it was in use: it had {} bytes and has {}", size_, now));
  if (map_.lost()) fail("has lost a part while it was in use: it was cut short, or its disk fails");
}

void IdxFile::add_identity(Sha256& hash) const {
  hash.update_u64(size_);
  hash.update_u64(static_cast<std::uint64_t>(header_.type));
  hash.update_u64(header_.dims.size());
  for (const std::int64_t extent : header_.dims) hash.update_u64(static_cast<std::uint64_t>(extent));
}

void IdxFile::fail(const std::string& what) const {
  throw InputError(fmt::format("{} {}; copy the file again, then go on with --resume", header_.origin, what));
}

}  // namespace lockstep
