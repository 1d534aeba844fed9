#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/digest.h"
#include "model/files/safetensors.h"

namespace lockstep {

/// The weights that a run has left at its end; nothing where the file is missing. Throws InputError, with
/// what to do, where it is damaged.
std::optional<SafetensorsFile> weights_of_run(const std::string& path);

/// The tensors of one or several weight files, as if they stood in one. No name twice.
class TensorParts {
 public:
  /// `name` stands for the whole in messages: a file, or a checkpoint directory. Throws InputError for a
  /// tensor that two files hold.
  TensorParts(std::vector<SafetensorsFile> files, std::string name);
  /// One file, which gives the name.
  explicit TensorParts(SafetensorsFile file);

  const std::string& name() const { return name_; }
  /// Sorted by name. Offsets are those in the tensor's own file.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  std::span<const std::byte> bytes(const TensorInfo& tensor) const;
  /// Of the first file.
  const std::map<std::string, std::string>& metadata() const { return files_.front().metadata(); }

  /// As SafetensorsFile::read_f32 and check_names.
  void read_f32(const std::string& name, const Shape& shape, std::span<float> out) const;
  void check_names(const std::vector<std::string>& expected) const;
  void add_to(TensorDigest& digest) const;
  /// The digest of all tensors, as `lockstep digest` prints it.
  std::string digest() const;
  /// Throws InputError that names the first value that is NaN or infinite.
  void refuse_nonfinite() const;
  /// Writes all tensors and the metadata, `more` besides, as one file, with its digest. Throws as
  /// write_safetensors.
  void write(const std::string& path, const std::function<void()>& before_rename = {},
             const std::map<std::string, std::string>& more = {}) const;

 private:
  std::vector<SafetensorsFile> files_;
  std::string name_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::size_t> file_of_;
};

}  // namespace lockstep
