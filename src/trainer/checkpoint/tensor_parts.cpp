#include "trainer/checkpoint/tensor_parts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <set>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/numerics/finite.h"

namespace lockstep {

std::optional<SafetensorsFile> weights_of_run(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  try {
    SafetensorsFile file = SafetensorsFile::open(path);
    check_digest(file);
    return file;
  } catch (const InputError& e) {
    throw InputError(fmt::format("{}; move it away, and the newest checkpoint stands in for it", e.what()));
  }
}

TensorParts::TensorParts(std::vector<SafetensorsFile> files, std::string name)
    : files_(std::move(files)), name_(std::move(name)) {
  require(!files_.empty(), "TensorParts: no files");
  for (std::size_t f = 0; f < files_.size(); ++f) {
    for (const TensorInfo& tensor : files_[f].tensors()) {
      if (!file_of_.emplace(tensor.name, f).second)
        throw InputError(fmt::format("'{}' and '{}' both hold the tensor \"{}\"",
                                     files_[file_of_[tensor.name]].path(), files_[f].path(), tensor.name));
      tensors_.push_back(tensor);
    }
  }
  std::sort(tensors_.begin(), tensors_.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
}

TensorParts::TensorParts(SafetensorsFile file) : TensorParts(std::vector{file}, file.path()) {}

std::span<const std::byte> TensorParts::bytes(const TensorInfo& tensor) const {
  return files_[file_of_.at(tensor.name)].bytes(tensor);
}

void TensorParts::read_f32(const std::string& name, const Shape& shape, std::span<float> out) const {
  const auto found = file_of_.find(name);
  // Where no file holds it, the first one says so.
  if (found == file_of_.end() && files_.size() > 1)
    throw InputError(fmt::format("'{}' holds no tensor \"{}\"; it belongs to another model", name_, name));
  files_[found == file_of_.end() ? 0 : found->second].read_f32(name, shape, out);
}

void TensorParts::check_names(const std::vector<std::string>& expected) const {
  if (files_.size() == 1) return files_.front().check_names(expected);
  const std::set<std::string> wanted(expected.begin(), expected.end());
  for (const std::string& name : wanted) {
    if (file_of_.count(name) == 0)
      throw InputError(fmt::format("'{}' holds no tensor \"{}\"; it belongs to another model", name_, name));
  }
  for (const TensorInfo& t : tensors_) {
    if (wanted.count(t.name) == 0)
      throw InputError(
          fmt::format("'{}' holds the tensor \"{}\", which the model does not have; it belongs to another "
                      "model",
                      files_[file_of_.at(t.name)].path(), t.name));
  }
}

void TensorParts::add_to(TensorDigest& digest) const {
  for (const TensorInfo& t : tensors_) digest.add(t.name, t.dtype, t.shape, bytes(t));
}

std::string TensorParts::digest() const {
  TensorDigest digest;
  add_to(digest);
  return digest.hex();
}

void TensorParts::refuse_nonfinite() const {
  std::vector<float> values(std::size_t{1} << 16);
  for (const TensorInfo& t : tensors_) {
    if (t.dtype != DType::f32) continue;  // loading refuses it
    std::span<const std::byte> rest = bytes(t);
    for (std::size_t first = 0; !rest.empty(); first += values.size()) {
      const std::span<float> part =
          std::span(values).first(std::min(values.size(), rest.size() / sizeof(float)));
      std::memcpy(part.data(), rest.data(), part.size_bytes());
      rest = rest.subspan(part.size_bytes());
      if (all_finite(part)) continue;
      const auto bad = std::find_if(part.begin(), part.end(), [](float v) { return !std::isfinite(v); });
      throw InputError(fmt::format(
          "'{}': element {} of the tensor \"{}\" is {}: such weights predict nothing; take those of an older "
          "checkpoint",
          name_, first + static_cast<std::size_t>(bad - part.begin()), t.name,
          std::isnan(*bad) ? "NaN" : "infinite"));
    }
  }
}

void TensorParts::write(const std::string& path, const std::function<void()>& before_rename,
                        const std::map<std::string, std::string>& more) const {
  std::vector<TensorView> views;
  for (const TensorInfo& t : tensors_) views.push_back({t.name, t.dtype, t.shape, bytes(t)});
  std::map<std::string, std::string> all = more;
  all.insert(metadata().begin(), metadata().end());
  write_safetensors(path, views, with_digest(std::move(all), views), before_rename);
}

}  // namespace lockstep
