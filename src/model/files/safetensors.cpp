#include "model/files/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <set>
#include <unistd.h>
#include <utility>

#include "core/error.h"
#include "model/files/safetensors_header.h"

namespace lockstep {
namespace {

constexpr const char* digest_key = "digest";

static_assert(std::endian::native == std::endian::little, "tensor data is written as it lies in memory");

std::string header_text(const std::vector<TensorView>& sorted,
                        const std::map<std::string, std::string>& metadata) {
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t at = 0;
  for (const TensorView& t : sorted) {
    nlohmann::json& entry = header[t.name];
    entry["dtype"] = name_of(t.dtype);
    entry["shape"] = t.shape.dims();
    entry["data_offsets"] = {at, at + t.data.size()};
    at += t.data.size();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    throw InternalError("a tensor's name or the metadata of a weight file is not UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > max_safetensors_header)
    throw InternalError("the header of a weight file passes 100,000,000 bytes");
  return text;
}

void sort_and_check(std::vector<TensorView>& tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorView& a, const TensorView& b) { return a.name < b.name; });
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorView& t = tensors[i];
    const std::vector<std::uint64_t> dims(t.shape.begin(), t.shape.end());
    if (tensor_bytes(dims, t.dtype) != t.data.size()) {
      throw InternalError(fmt::format("tensor {}: shape {} and {} bytes do not match", quoted_name(t.name),
                                      t.shape.text(), t.data.size()));
    }
    if (t.name == "__metadata__" || (i > 0 && tensors[i - 1].name == t.name)) {
      throw InternalError(
          fmt::format("a weight file cannot hold the tensor {} (twice)", quoted_name(t.name)));
    }
  }
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  SafetensorsFile f;
  f.path_ = path;
  f.file_ = std::make_shared<const MappedFile>(path);
  f.header_ = std::make_shared<const SafetensorsHeader>(parse_safetensors(f.file_->bytes(), path));
  return f;
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto& all = header_->tensors;
  const auto it = std::lower_bound(all.begin(), all.end(), name,
                                   [](const TensorInfo& t, std::string_view n) { return t.name < n; });
  return it != all.end() && it->name == name ? &*it : nullptr;
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& tensor) const {
  return file_->bytes().subspan(header_->data_offset + tensor.begin, tensor.bytes());
}

void SafetensorsFile::read_f32(const std::string& name, const Shape& shape, std::span<float> out) const {
  const TensorInfo* t = find(name);
  if (t == nullptr) {
    throw InputError(
        fmt::format("'{}' holds no tensor {}; it belongs to another model", path_, quoted_name(name)));
  }
  if (t->dtype != DType::f32) {
    throw InputError(fmt::format("'{}': tensor {} has the dtype {}, the model needs F32; convert the file",
                                 path_, quoted_name(name), name_of(t->dtype)));
  }
  if (t->shape != shape) {
    throw InputError(
        fmt::format("'{}': tensor {} has the shape {}, the model needs {}; it belongs to another model",
                    path_, quoted_name(name), t->shape.text(), shape.text()));
  }
  require(out.size() * sizeof(float) == t->bytes(),
          "read_f32: the destination has another size than the shape");
  const std::span<const std::byte> source = bytes(*t);
  if (!source.empty()) std::memcpy(out.data(), source.data(), source.size());
}

void SafetensorsFile::check_names(const std::vector<std::string>& expected) const {
  const std::set<std::string> wanted(expected.begin(), expected.end());
  for (const std::string& name : wanted) {
    if (find(name) == nullptr) {
      throw InputError(
          fmt::format("'{}' holds no tensor {}; it belongs to another model", path_, quoted_name(name)));
    }
  }
  for (const TensorInfo& t : tensors()) {
    if (wanted.count(t.name) == 0) {
      throw InputError(
          fmt::format("'{}' holds the tensor {}, which the model does not have; it belongs to another model",
                      path_, quoted_name(t.name)));
    }
  }
}

TensorView view_of(std::string name, Shape shape, std::span<const float> data) {
  return {std::move(name), DType::f32, std::move(shape), std::as_bytes(data)};
}

std::uint64_t safetensors_bytes(const std::vector<TensorView>& tensors,
                                const std::map<std::string, std::string>& metadata) {
  std::vector<TensorView> sorted = tensors;
  sort_and_check(sorted);
  std::uint64_t n = 8 + header_text(sorted, metadata).size();
  for (const TensorView& t : sorted) n += t.data.size();
  return n;
}

WrittenFile write_new_safetensors(const std::string& path, std::vector<TensorView> tensors,
                                  const std::map<std::string, std::string>& metadata) {
  sort_and_check(tensors);
  const std::string header = header_text(tensors, metadata);
  const std::uint64_t n = header.size();
  FileWriter file(path, FileWriter::Hash::sha256);
  file.append(std::as_bytes(std::span(&n, 1)));
  file.append(header);
  for (const TensorView& t : tensors) file.append(t.data);
  file.close();
  return {file.size(), file.sha256()};
}

namespace {

// The entries as views of no data but the right size, with the place of each in `entries`.
std::vector<std::pair<TensorView, std::size_t>> sorted_entries(const std::vector<TensorEntry>& entries) {
  std::vector<std::pair<TensorView, std::size_t>> sorted;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const auto bytes = static_cast<std::size_t>(entries[i].shape.elements()) * sizeof(float);
    // Only the size is looked at.
    const std::span<const std::byte> size_only(static_cast<const std::byte*>(nullptr), bytes);
    sorted.push_back({{entries[i].name, DType::f32, entries[i].shape, size_only}, i});
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.first.name < b.first.name; });
  return sorted;
}

std::vector<TensorView> views_in(const std::vector<std::pair<TensorView, std::size_t>>& sorted) {
  std::vector<TensorView> views;
  for (const auto& [view, place] : sorted) views.push_back(view);
  sort_and_check(views);
  return views;
}

}  // namespace

WrittenFile write_new_safetensors(const std::string& path, const std::vector<TensorEntry>& entries,
                                  const std::map<std::string, std::string>& metadata,
                                  const std::function<std::span<const float>(std::size_t)>& data) {
  const auto sorted = sorted_entries(entries);
  const std::string header = header_text(views_in(sorted), metadata);
  const std::uint64_t n = header.size();
  FileWriter file(path, FileWriter::Hash::sha256);
  file.append(std::as_bytes(std::span(&n, 1)));
  file.append(header);
  for (const auto& [view, place] : sorted) {
    const std::span<const std::byte> bytes = std::as_bytes(data(place));
    require(bytes.size() == view.data.size(), "the data of a tensor does not have the size of its shape");
    file.append(bytes);
  }
  file.close();
  return {file.size(), file.sha256()};
}

std::uint64_t safetensors_bytes(const std::vector<TensorEntry>& entries,
                                const std::map<std::string, std::string>& metadata) {
  return safetensors_bytes(views_in(sorted_entries(entries)), metadata);
}

WrittenFile write_safetensors(const std::string& path, std::vector<TensorView> tensors,
                              const std::map<std::string, std::string>& metadata,
                              const std::function<void()>& before_rename) {
  std::string temporary;
  // A name that a killed process of the same id has left is passed by.
  for (int attempt = 0; temporary.empty() || std::filesystem::exists(temporary); ++attempt) {
    temporary = fmt::format("{}.tmp.{}.{}", path, ::getpid(), attempt);
  }
  WrittenFile written = write_new_safetensors(temporary, std::move(tensors), metadata);
  try {
    if (before_rename) before_rename();
    rename_durably(temporary, path);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw;
  }
  return written;
}

std::map<std::string, std::string> with_digest(std::map<std::string, std::string> metadata,
                                               const std::vector<TensorView>& tensors) {
  TensorDigest digest;
  for (const TensorView& t : tensors) digest.add(t.name, t.dtype, t.shape, t.data);
  metadata[digest_key] = digest.hex();
  return metadata;
}

void check_digest(const SafetensorsFile& file) {
  const auto written = file.metadata().find(digest_key);
  if (written == file.metadata().end()) return;
  TensorDigest digest;
  add_to_digest(digest, file);
  if (digest.hex() != written->second)
    throw InputError(
        fmt::format("'{}' is damaged: its tensors are not those that it was written with", file.path()));
}

void add_to_digest(TensorDigest& digest, const SafetensorsFile& file) {
  for (const TensorInfo& t : file.tensors()) digest.add(t.name, t.dtype, t.shape, file.bytes(t));
}

}  // namespace lockstep
