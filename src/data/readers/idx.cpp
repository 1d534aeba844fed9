#include "data/readers/idx.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <limits>
#include <span>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "core/text.h"
#include "data/readers/byte_order.h"
#include "data/readers/gzip.h"
#include "data/readers/idx_answers.h"
#include "data/readers/image_layout.h"

namespace lockstep {

namespace {

static_assert(std::endian::native == std::endian::little, "IDX data is swapped from big to little endian");

constexpr int most_dims = 8;
/// Memory is taken in steps while data arrives, so that a header that lies costs at most one step.
constexpr std::size_t step_bytes = std::size_t{64} << 20;

std::size_t width_of(IdxType type) {
  switch (type) {
    case IdxType::u8:
    case IdxType::i8:
      return 1;
    case IdxType::i16:
      return 2;
    case IdxType::i32:
    case IdxType::f32:
      return 4;
    case IdxType::f64:
      return 8;
  }
  throw InternalError("an IDX type without a width");
}

bool known(std::uint8_t code) {
  constexpr std::array<std::uint8_t, 6> codes{0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E};
  return std::find(codes.begin(), codes.end(), code) != codes.end();
}

void swap_to_native(std::span<std::uint8_t> data, std::size_t width) {
  if (width == 1) return;
  for (std::size_t i = 0; i < data.size(); i += width)
    std::reverse(data.begin() + i, data.begin() + i + width);
}

template <class T>
T load(const std::uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

}  // namespace

Shape sample_shape_of(const IdxArray& images, const std::optional<Shape>& wanted, bool last) {
  const std::vector<std::int64_t>& d = images.dims;
  Shape shape;
  if (d.size() == 1) {
    shape = Shape{1};
  } else if (d.size() == 2) {
    shape = Shape{d[1]};
  } else if (d.size() == 3) {
    shape = Shape{1, d[1], d[2]};
  } else if (d.size() == 4) {
    shape = last ? Shape{d[3], d[1], d[2]} : Shape{d[1], d[2], d[3]};
  } else {
    shape = Shape(std::vector<std::int64_t>(d.begin() + 1, d.end()));
    if (!wanted) {
      throw InputError(
          fmt::format("{} holds samples of {}, which have {} dimensions: give data.shape as FEATURES or "
                      "CHANNELSxHEIGHTxWIDTH",
                      images.origin, shape.text(), shape.rank()));
    }
  }
  if (!wanted) return shape;
  if (wanted->elements() != shape.elements()) {
    throw ConfigError(
        fmt::format("data.shape = {} has {} elements, but the samples of {} are {}, which has {}",
                    wanted->text(), wanted->elements(), images.origin, shape.text(), shape.elements()));
  }
  return *wanted;
}

std::vector<float> to_floats(const IdxArray& array) {
  std::vector<float> values(static_cast<std::size_t>(array.elements()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(array.value(static_cast<std::int64_t>(i)));
  }
  return values;
}

const char* name_of(IdxType type) {
  switch (type) {
    case IdxType::u8:
      return "u8";
    case IdxType::i8:
      return "i8";
    case IdxType::i16:
      return "i16";
    case IdxType::i32:
      return "i32";
    case IdxType::f32:
      return "f32";
    case IdxType::f64:
      return "f64";
  }
  return "unknown";
}

std::int64_t IdxArray::elements() const {
  std::int64_t n = 1;
  for (const std::int64_t d : dims) n *= d;
  return n;
}

double IdxArray::value(std::int64_t i) const {
  const std::uint8_t* at = data.data() + static_cast<std::size_t>(i) * width_of(type);
  switch (type) {
    case IdxType::u8:
      return *at;
    case IdxType::i8:
      return load<std::int8_t>(at);
    case IdxType::i16:
      return load<std::int16_t>(at);
    case IdxType::i32:
      return load<std::int32_t>(at);
    case IdxType::f32:
      return load<float>(at);
    case IdxType::f64:
      return load<double>(at);
  }
  throw InternalError("an IDX type without a value");
}

std::size_t IdxArray::element_bytes() const {
  return width_of(type);
}

std::string IdxArray::shape_text() const {
  return fmt::format("{} {}", fmt::join(dims, "x"), name_of(type));
}

namespace {

/// What a file says of itself, held against its size.
struct Header {
  IdxArray array;  // without data
  std::uint64_t header_bytes = 0;
  std::uint64_t data_bytes = 0;
};

InputError too_long(const Header& h) {
  return InputError(fmt::format(
      "{} goes on after the {} bytes of data that its header promises ({}): the header is wrong, or "
      "something was appended",
      h.array.origin, h.data_bytes, h.array.shape_text()));
}

/// Reads up to where the data begin.
Header read_header(InputFile& file, const std::string& path) {
  Header h;
  IdxArray& array = h.array;
  array.path = path;
  array.origin = file.origin();

  std::array<std::byte, 512> head{};
  const auto refuse_kind = [&](std::size_t got) {
    const std::string kind = guess_kind(std::span(head).first(got));
    std::string start;
    for (std::size_t i = 0; i < std::min<std::size_t>(got, 4); ++i) {
      start += fmt::format("{}{:02x}", i == 0 ? "" : " ", std::to_integer<unsigned>(head[i]));
    }
    return InputError(
        fmt::format("{} is not an IDX file: it begins with '{}' where 00 00, a type and a dimension count "
                    "should stand, and looks like {}{}",
                    array.origin, start, kind, kind == "a CSV file" ? "; set data.format = csv" : ""));
  };
  const auto cut_short = [&](const char* where) {
    return InputError(fmt::format("{} is cut short: it ends within {}", array.origin, where));
  };

  std::size_t got = file.read(std::span(head).first(4));
  if (got < 4) {
    const auto zero = [](std::byte b) { return b == std::byte{0}; };
    if (std::all_of(head.begin(), head.begin() + std::min<std::size_t>(got, 2), zero)) {
      throw cut_short("the IDX magic number");
    }
    throw refuse_kind(got);
  }
  const auto byte = [&](std::size_t i) { return std::to_integer<std::uint8_t>(head[i]); };
  if (byte(0) != 0 || byte(1) != 0) {
    got += file.read(std::span(head).subspan(4));
    throw refuse_kind(got);
  }
  if (!known(byte(2))) {
    throw InputError(fmt::format(
        "{} is no IDX file that can be read: its type code is 0x{:02x}, known are 08 (u8), 09 (i8), "
        "0b (i16), 0c (i32), 0d (f32) and 0e (f64)",
        array.origin, byte(2)));
  }
  array.type = static_cast<IdxType>(byte(2));
  const int ndim = byte(3);
  if (ndim < 1 || ndim > most_dims) {
    throw InputError(fmt::format("{} says in its header that it has {}; 1 to {} can be read", array.origin,
                                 counted(ndim, "dimension"), most_dims));
  }
  std::array<std::byte, 4 * most_dims> extents{};
  const auto extent_bytes = std::span(extents).first(4 * static_cast<std::size_t>(ndim));
  if (file.read(extent_bytes) < extent_bytes.size()) throw cut_short("the extents of its IDX header");
  std::uint64_t bytes = width_of(array.type);
  bool fits = true;
  for (int i = 0; i < ndim; ++i) {
    std::uint32_t extent = 0;
    for (std::size_t b = 0; b < 4; ++b)
      extent = extent << 8 | std::to_integer<std::uint32_t>(extents[4 * i + b]);
    array.dims.push_back(extent);
    fits = fits && !__builtin_mul_overflow(bytes, std::uint64_t{extent}, &bytes);
  }
  if (array.dims[0] == 0)
    throw InputError(fmt::format("{} holds no samples ({})", array.origin, array.shape_text()));
  if (std::find(array.dims.begin(), array.dims.end(), 0) != array.dims.end()) {
    throw InputError(
        fmt::format("{} has an extent of 0 in its header ({})", array.origin, array.shape_text()));
  }
  const std::uint64_t header = 4 + extent_bytes.size();
  const std::uint64_t most = file.most_bytes() - std::min(file.most_bytes(), header);
  if (!fits || bytes > most) {
    throw InputError(
        fmt::format("{}: its header promises {}{}, but the file holds {} {} bytes of data: it is cut short, "
                    "or its header is wrong{}",
                    array.origin, array.shape_text(), fits ? fmt::format(" = {} bytes", bytes) : "",
                    file.compressed() ? "at most" : "only", most,
                    reversed_extents(array.dims, width_of(array.type), most, !file.compressed())));
  }
  h.header_bytes = header;
  h.data_bytes = bytes;
  return h;
}

}  // namespace

IdxArray read_idx_header(const std::string& path, const std::string& key) {
  InputFile file(path, key);
  if (file.compressed())
    throw InputError(fmt::format(
        "{} is packed, and files that are named together by a pattern are read in place: unpack it",
        file.origin()));
  Header h = read_header(file, path);
  if (file.stored_bytes() != h.header_bytes + h.data_bytes) throw too_long(h);
  return std::move(h.array);
}

IdxArray read_idx(const std::string& path, const std::string& key) {
  InputFile file(path, key);
  Header h = read_header(file, path);
  IdxArray& array = h.array;
  const std::uint64_t bytes = h.data_bytes;
  std::uint64_t read = 0;
  while (read < bytes) {
    const auto step = static_cast<std::size_t>(
        std::min<std::uint64_t>(bytes - read, std::max<std::uint64_t>(step_bytes, read)));
    array.data.resize(static_cast<std::size_t>(read) + step);
    const std::size_t n =
        file.read(std::as_writable_bytes(std::span(array.data)).subspan(static_cast<std::size_t>(read)));
    read += n;
    if (n < step) {
      throw InputError(fmt::format(
          "{} is cut short: its header promises {} = {} bytes of data, it holds {}{}", array.origin,
          array.shape_text(), bytes, read, reversed_extents(array.dims, width_of(array.type), read, true)));
    }
  }
  std::byte beyond{};
  if (file.read({&beyond, 1}) != 0) throw too_long(h);
  swap_to_native(array.data, width_of(array.type));
  return std::move(array);
}

MemoryContent load_idx(const std::string& images, const std::string& images_key, const std::string& labels,
                       const std::string& labels_key, LabelUse use, const ImageOptions& options) {
  IdxArray array = read_idx(images, images_key);
  MemoryContent content;
  content.file = images;
  content.image_file_bytes = array.data.size();
  content.samples = array.dims[0];
  const bool last = holds_channels_last(array, options);
  content.sample_shape = sample_shape_of(array, options.shape, last);
  content.stored_as = name_of(array.type);
  content.description = fmt::format("{} of {} ({}) from '{}'", counted(content.samples, "sample"),
                                    content.sample_shape.text(), name_of(array.type), images);
  if (use != LabelUse::none)
    read_answers(content, array, find_labels(images, images_key, labels, labels_key), labels_key, use);
  look_at_byte_order(array, false, content.doubts);
  if (array.type == IdxType::u8) {
    content.bytes = std::move(array.data);
  } else {
    content.floats = to_floats(array);
    refuse_non_finite(content, content.floats, content.sample_shape.elements(), "value");
  }
  if (last) {
    const Shape stored{array.dims[1], array.dims[2], array.dims[3]};
    to_channels_first(content.bytes, stored);
    to_channels_first(content.floats, stored);
  }
  return content;
}

}  // namespace lockstep
