#include "model/files/safetensors_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fmt/format.h>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "core/counted.h"
#include "core/error.h"
#include "core/printable.h"
#include "model/files/safetensors.h"

namespace lockstep {
namespace {

constexpr std::size_t max_rank = 32;  // of Lockstep; the format sets none

constexpr std::array loadable = {DType::f32, DType::f64, DType::i32, DType::i64, DType::u8};
// Types of the format that Lockstep knows of but does not load.
constexpr std::array<std::string_view, 11> known_only = {"BOOL", "I8",   "F8_E5M2", "F8_E4M3", "I16", "U16",
                                                         "F16",  "BF16", "U32",     "U64",     "C64"};

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw InputError(
      fmt::format("'{}' is not a valid safetensors file: {}; copy or save it again", path, what));
}

std::string bytes_text(std::uint64_t bytes) {
  return counted(static_cast<std::int64_t>(bytes), "byte");
}

struct RawEntry {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<std::uint64_t>> shape;
  std::optional<std::vector<std::uint64_t>> offsets;
};

// Reads the header event by event, so that neither depth nor unknown content costs memory: what the format
// does not provide for ends the reading at once.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<RawEntry> entries;
  std::map<std::string, std::string> metadata;
  std::string problem;

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("true or false"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return unexpected("a number that is not an integer below 2^64");
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::numbers) return unexpected("a number");
    numbers_.push_back(value);
    if (numbers_.size() > max_rank) {
      return fail(
          fmt::format("tensor {}: '{}' has more than {} numbers", quoted_name(name()), field_, max_rank));
    }
    return true;
  }
  bool string(string_t& value) override {
    if (place_ == Place::metadata_value) {
      metadata[metadata_key_] = value;
      place_ = Place::metadata;
      return true;
    }
    if (place_ != Place::field_value || field_ != "dtype") return unexpected("a string");
    entries.back().dtype = value;
    place_ = Place::entry;
    return true;
  }
  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::outside:
        place_ = Place::top;
        return true;
      case Place::entry_value:
        place_ = Place::entry;
        return true;
      case Place::metadata_object:
        place_ = Place::metadata;
        return true;
      default:
        return unexpected("an object");
    }
  }
  bool end_object() override {
    switch (place_) {
      case Place::entry:
        place_ = Place::top;
        return check_complete();
      case Place::metadata:
        place_ = Place::top;
        return true;
      default:
        place_ = Place::outside;
        return true;
    }
  }
  bool start_array(std::size_t) override {
    if (place_ != Place::field_value || field_ == "dtype") return unexpected("a list");
    place_ = Place::numbers;
    numbers_.clear();
    return true;
  }
  bool end_array() override {
    (field_ == "shape" ? entries.back().shape : entries.back().offsets) = numbers_;
    place_ = Place::entry;
    return true;
  }
  bool key(string_t& value) override {
    if (place_ == Place::top) return start_entry(value);
    if (place_ == Place::metadata) {
      if (metadata.count(value) != 0)
        return fail(fmt::format("__metadata__ holds {} twice", quoted_name(value)));
      metadata_key_ = value;
      place_ = Place::metadata_value;
      return true;
    }
    const RawEntry& e = entries.back();
    if (value != "dtype" && value != "shape" && value != "data_offsets") {
      return fail(fmt::format("tensor {}: unknown key {}", quoted_name(name()), quoted_name(value)));
    }
    if ((value == "dtype" && e.dtype) || (value == "shape" && e.shape) ||
        (value == "data_offsets" && e.offsets)) {
      return fail(fmt::format("tensor {}: '{}' stands twice", quoted_name(name()), value));
    }
    field_ = value;
    place_ = Place::field_value;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    return fail(fmt::format("its header is not JSON from byte {} of the file on", position + 7));
  }

 private:
  enum class Place {
    outside,
    top,
    metadata_object,
    metadata,
    metadata_value,
    entry_value,
    entry,
    field_value,
    numbers
  };

  const std::string& name() const { return entries.back().name; }
  bool fail(std::string what) {
    problem = std::move(what);
    return false;
  }
  bool unexpected(std::string_view what) {
    switch (place_) {
      case Place::outside:
        return fail(fmt::format("its header is {} instead of an object", what));
      case Place::metadata_object:
        return fail(fmt::format("__metadata__ is {} instead of an object", what));
      case Place::metadata_value:
        return fail(
            fmt::format("__metadata__: {} is {} instead of a string", quoted_name(metadata_key_), what));
      case Place::entry_value:
        return fail(fmt::format("tensor {} is {} instead of an object", quoted_name(name()), what));
      default:
        return fail(fmt::format("tensor {}: '{}' holds {}", quoted_name(name()), field_, what));
    }
  }
  bool start_entry(const std::string& name) {
    if (name == "__metadata__") {
      if (has_metadata_) return fail("__metadata__ stands twice");
      has_metadata_ = true;
      place_ = Place::metadata_object;
      return true;
    }
    if (!names_.insert(name).second) return fail(fmt::format("tensor {} stands twice", quoted_name(name)));
    entries.push_back({name, {}, {}, {}});
    place_ = Place::entry_value;
    return true;
  }
  bool check_complete() {
    const RawEntry& e = entries.back();
    const char* missing = !e.dtype ? "dtype" : !e.shape ? "shape" : !e.offsets ? "data_offsets" : nullptr;
    if (missing != nullptr)
      return fail(fmt::format("tensor {}: '{}' is missing", quoted_name(e.name), missing));
    if (e.offsets->size() != 2) {
      return fail(fmt::format("tensor {}: 'data_offsets' holds {} instead of 2", quoted_name(e.name),
                              counted(static_cast<std::int64_t>(e.offsets->size()), "number")));
    }
    return true;
  }

  Place place_ = Place::outside;
  std::string field_;
  std::string metadata_key_;
  std::vector<std::uint64_t> numbers_;
  std::set<std::string> names_;
  bool has_metadata_ = false;
};

DType dtype_of(const std::string& path, const RawEntry& entry) {
  for (const DType d : loadable) {
    if (*entry.dtype == name_of(d)) return d;
  }
  if (std::find(known_only.begin(), known_only.end(), *entry.dtype) != known_only.end()) {
    throw InputError(
        fmt::format("'{}': tensor {} has the dtype {}, which Lockstep does not load; convert the file to F32",
                    path, quoted_name(entry.name), *entry.dtype));
  }
  refuse(path, fmt::format("tensor {} has the unknown dtype {}", quoted_name(entry.name),
                           quoted_name(*entry.dtype)));
}

TensorInfo check_entry(const std::string& path, const RawEntry& entry, std::uint64_t data_bytes) {
  TensorInfo t;
  t.name = entry.name;
  t.dtype = dtype_of(path, entry);
  t.begin = (*entry.offsets)[0];
  t.end = (*entry.offsets)[1];
  if (t.begin > t.end || t.end > data_bytes) {
    refuse(path, fmt::format("tensor {} claims bytes {} to {} of {} of data", quoted_name(t.name), t.begin,
                             t.end, bytes_text(data_bytes)));
  }
  const std::optional<std::uint64_t> needed = tensor_bytes(*entry.shape, t.dtype);
  if (!needed)
    refuse(path, fmt::format("tensor {} has a shape of more than 2^63 bytes", quoted_name(t.name)));
  t.shape = Shape(std::vector<std::int64_t>(entry.shape->begin(), entry.shape->end()));
  if (*needed != t.bytes()) {
    refuse(path, fmt::format("tensor {} of shape {} and dtype {} needs {}, but its data_offsets span {}",
                             quoted_name(t.name), t.shape.text(), name_of(t.dtype), bytes_text(*needed),
                             t.bytes()));
  }
  return t;
}

// In order of offset every tensor begins where the one before ends, and the last ends with the file.
void check_tiling(const std::string& path, std::vector<TensorInfo>& tensors, std::uint64_t data_bytes) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t at = 0;
  const std::string* before = nullptr;
  for (const TensorInfo& t : tensors) {
    if (t.begin < at)
      refuse(path, fmt::format("tensors {} and {} overlap", quoted_name(*before), quoted_name(t.name)));
    if (t.begin > at) {
      refuse(path, fmt::format("bytes {} to {} before tensor {} belong to no tensor", at, t.begin,
                               quoted_name(t.name)));
    }
    at = t.end;
    before = &t.name;
  }
  if (at != data_bytes) {
    refuse(path, fmt::format("its tensors end at byte {} of the data, but it holds {}", at,
                             bytes_text(data_bytes)));
  }
}

}  // namespace

std::string quoted_name(std::string_view text) {
  return "'" + printable(text, 100) + "'";
}

std::optional<std::uint64_t> tensor_bytes(std::span<const std::uint64_t> dims, DType dtype) {
  constexpr auto limit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  std::uint64_t n = size_of(dtype);
  for (const std::uint64_t d : dims) {
    if (d > limit || (d != 0 && n > limit / d)) return std::nullopt;
    n *= d;
  }
  return n;
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& path) {
  if (file.size() < 8) {
    refuse(path,
           fmt::format("it holds {}, less than the 8 that give the header's size", bytes_text(file.size())));
  }
  std::uint64_t n = 0;
  std::memcpy(&n, file.data(), 8);
  if (n > max_safetensors_header) {
    refuse(path, fmt::format(
                     "its first 8 bytes announce a header of {} bytes, more than the 100000000 allowed", n));
  }
  if (n > file.size() - 8) {
    refuse(path, fmt::format("its header claims {}, but only {} follow", bytes_text(n), file.size() - 8));
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, n);
  if (text.empty() || text.front() != '{') refuse(path, "its header does not begin with '{'");
  const std::size_t last = text.find_last_not_of(' ');
  if (text[last] != '}') refuse(path, "its header does not end with '}' and spaces");
  // The JSON library takes a zero byte for the end of its input.
  if (text.find('\0') != std::string_view::npos) refuse(path, "its header holds a zero byte");

  HeaderHandler handler;
  const bool parsed =
      nlohmann::json::sax_parse(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(last) + 1, &handler);
  if (!parsed) refuse(path, handler.problem);

  SafetensorsHeader header;
  header.data_offset = 8 + n;
  header.metadata = std::move(handler.metadata);
  const std::uint64_t data_bytes = file.size() - header.data_offset;
  header.tensors.reserve(handler.entries.size());
  for (const RawEntry& entry : handler.entries)
    header.tensors.push_back(check_entry(path, entry, data_bytes));
  check_tiling(path, header.tensors, data_bytes);
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  return header;
}

}  // namespace lockstep
