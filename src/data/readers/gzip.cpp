#include "data/readers/gzip.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <limits>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>
#include <zlib.h>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"

namespace lockstep {

namespace {

constexpr std::size_t chunk_bytes = std::size_t{1} << 18;
constexpr std::array<unsigned char, 2> gzip_magic{0x1f, 0x8b};

/// Owns zlib's state for one gzip file.
class Inflater {
 public:
  Inflater() {
    // 16 + MAX_WBITS: a gzip wrapper and nothing else (zlib manual, inflateInit2).
    if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) throw InternalError("zlib cannot be started");
  }
  ~Inflater() { inflateEnd(&stream); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  z_stream stream{};
};

}  // namespace

struct InputFile::State {
  explicit State(int fd) : file(fd) {}
  FileDescriptor file;
  std::uint64_t stored = 0;
  std::vector<unsigned char> input = std::vector<unsigned char>(chunk_bytes);
  std::size_t at = 0;                 // next unused byte of input
  std::size_t have = 0;               // bytes in input
  std::uint64_t consumed_before = 0;  // bytes of the file before input[0]
  bool file_ended = false;
  bool content_ended = false;
  std::unique_ptr<Inflater> inflater;

  std::uint64_t offset() const { return consumed_before + at; }

  /// Reads on when everything in hand is used up. False at the end of the file.
  bool more(const std::string& origin) {
    if (at < have) return true;
    if (file_ended) return false;
    consumed_before += have;
    at = have = 0;
    while (true) {
      const ssize_t got = ::read(file.get(), input.data(), input.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw InputError(fmt::format("cannot read {}: {}", origin, std::strerror(errno)));
      have = static_cast<std::size_t>(got);
      file_ended = got == 0;
      return got > 0;
    }
  }
};

InputFile::InputFile(const std::string& path, const std::string& key)
    : origin_(key.empty() ? fmt::format("'{}'", path) : fmt::format("'{}' ({})", path, key)) {
  // O_NONBLOCK: opening a FIFO that nobody writes must not hang before it can be refused.
  state_ = std::make_unique<State>(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!state_->file) {
    throw InputError(fmt::format("cannot open the data file {}: {}", origin_, std::strerror(errno)));
  }
  struct stat status {};
  if (::fstat(state_->file.get(), &status) != 0) {
    throw InputError(fmt::format("cannot examine the data file {}: {}", origin_, std::strerror(errno)));
  }
  if (S_ISDIR(status.st_mode)) throw InputError(fmt::format("{} is a directory, not a data file", origin_));
  if (!S_ISREG(status.st_mode)) throw InputError(fmt::format("{} is not a regular file", origin_));
  state_->stored = static_cast<std::uint64_t>(status.st_size);
  // The first chunk is read whole, so that two magic bytes are in hand whenever the file has them.
  if (!state_->more(origin_)) throw InputError(fmt::format("the data file {} is empty", origin_));
  if (state_->have >= 2 && std::equal(gzip_magic.begin(), gzip_magic.end(), state_->input.begin())) {
    state_->inflater = std::make_unique<Inflater>();
  }
}

InputFile::~InputFile() = default;

bool InputFile::compressed() const noexcept {
  return state_->inflater != nullptr;
}
std::uint64_t InputFile::stored_bytes() const noexcept {
  return state_->stored;
}

std::uint64_t InputFile::most_bytes() const noexcept {
  constexpr std::uint64_t ratio = 1032;
  if (!compressed()) return state_->stored;
  if (state_->stored > std::numeric_limits<std::uint64_t>::max() / ratio) return state_->stored;
  return state_->stored * ratio;
}

std::size_t InputFile::read(std::span<std::byte> out) {
  State& s = *state_;
  std::size_t done = 0;
  while (done < out.size() && !s.content_ended) {
    if (!s.more(origin_)) {
      if (compressed()) {
        throw InputError(
            fmt::format("{} is cut short: gzip stream ends after {} bytes; copy or download it again",
                        origin_, s.offset()));
      }
      s.content_ended = true;
      break;
    }
    const std::size_t wanted = out.size() - done;
    if (!compressed()) {
      const std::size_t n = std::min(wanted, s.have - s.at);
      std::memcpy(out.data() + done, s.input.data() + s.at, n);
      s.at += n;
      done += n;
      continue;
    }
    z_stream& z = s.inflater->stream;
    const auto room = static_cast<uInt>(std::min<std::size_t>(wanted, std::numeric_limits<uInt>::max()));
    const auto given = static_cast<uInt>(s.have - s.at);
    z.next_in = s.input.data() + s.at;
    z.avail_in = given;
    z.next_out = reinterpret_cast<Bytef*>(out.data() + done);
    z.avail_out = room;
    const int code = inflate(&z, Z_NO_FLUSH);
    s.at += given - z.avail_in;
    done += room - z.avail_out;
    if (code == Z_STREAM_END) {
      if (!s.more(origin_)) {
        s.content_ended = true;
      } else if (s.input[s.at] == gzip_magic[0]) {
        inflateReset(&z);  // another member; its second magic byte is checked by inflate
      } else {
        throw InputError(
            fmt::format("{} goes on after the end of its gzip stream at byte {}: cut off what follows",
                        origin_, s.offset()));
      }
    } else if (code != Z_OK && code != Z_BUF_ERROR) {
      throw InputError(
          fmt::format("{} is damaged: its gzip stream is wrong near byte {} ({}); copy or download it again",
                      origin_, s.offset(), z.msg != nullptr ? z.msg : "zlib error"));
    }
  }
  return done;
}

std::string read_all(InputFile& file, std::uint64_t most) {
  std::string text;
  std::vector<std::byte> chunk(chunk_bytes);
  while (true) {
    const std::size_t got = file.read(chunk);
    if (got > most - text.size()) {
      throw InputError(fmt::format("{} holds more than {} bytes{}: split it", file.origin(), most,
                                   file.compressed() ? " once unpacked" : ""));
    }
    text.append(reinterpret_cast<const char*>(chunk.data()), got);
    if (got < chunk.size()) return text;
  }
}

bool looks_like_text(std::span<const std::byte> head) {
  return !head.empty() && std::all_of(head.begin(), head.end(), [](std::byte b) {
    const auto c = std::to_integer<unsigned char>(b);
    return (c >= 32 && c != 127) || c == '\n' || c == '\r' || c == '\t';
  });
}

std::string guess_kind(std::span<const std::byte> head) {
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
  struct Known {
    std::string_view magic;
    const char* name;
  };
  using namespace std::string_view_literals;
  static constexpr std::array known{
      Known{"\x1f\x8b"sv, "gzip data"},
      Known{"\x89PNG"sv, "a PNG image"},
      Known{"\xff\xd8\xff"sv, "a JPEG image"},
      Known{"PK\x03\x04"sv, "a ZIP or NPZ archive"},
      Known{"\x93NUMPY"sv, "a NumPy array"},
      Known{"\x89HDF"sv, "an HDF5 file"},
      Known{"PAR1"sv, "a Parquet file"},
      Known{"\xfd"
            "7zXZ"sv,
            "an xz archive"},
      Known{"BZh"sv, "a bzip2 archive"},
      Known{"\x28\xb5\x2f\xfd"sv, "a zstd archive"},
      Known{"%PDF"sv, "a PDF document"},
      Known{"GIF8"sv, "a GIF image"},
      Known{"RIFF"sv, "a RIFF file (WAV, AVI)"},
      Known{"\xff\xfe"sv, "UTF-16 text: save it as UTF-8"},
      Known{"\xfe\xff"sv, "UTF-16 text: save it as UTF-8"},
      Known{"\x7f"
            "ELF"sv,
            "a program"},
  };
  for (const Known& k : known) {
    if (text.starts_with(k.magic)) return k.name;
  }
  if (text.size() >= 4 && text[2] == 0 && text[3] == 0 && text[0] != 0 && text[1] >= 8 && text[1] <= 14) {
    return "an IDX file whose header is little-endian";
  }
  if (text.size() >= 4 && text[0] == 0 && text[1] == 0 && text[2] >= 8 && text[2] <= 14) return "an IDX file";
  if (!looks_like_text(head)) return "unknown data";
  if (trim(text).starts_with('<')) return "an HTML or XML page";
  const std::string_view first_line = text.substr(0, text.find('\n'));
  return first_line.find(',') != first_line.npos ? "a CSV file" : "a text file";
}

}  // namespace lockstep
