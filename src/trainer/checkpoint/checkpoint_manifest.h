#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/shape.h"
#include "trainer/checkpoint/checkpoint.h"

namespace lockstep {

/// The format version that this Lockstep writes, and the highest that it reads.
inline constexpr int checkpoint_version = 3;

inline constexpr const char* manifest_file = "manifest.json";
inline constexpr const char* model_file = "model.safetensors";
inline constexpr const char* optimizer_file = "optimizer.safetensors";

/// What the tensors of a file are. A checkpoint holds one or several files of each kind, its parts.
enum class PartKind { model, optimizer };

/// The name of part `number` (from 0) of `parts`: "model.safetensors" where there is one,
/// "model-00001-of-00002.safetensors" and so on where there are more.
std::string part_name(PartKind kind, std::int64_t number, std::int64_t parts);

/// Whether a file of a checkpoint directory may have this name.
bool is_part_name(const std::string& name);

/// What manifest.json says of one file beside it.
struct ManifestFile {
  std::string name;
  std::uint64_t bytes = 0;
  std::string sha256;                    ///< 64 hex digits
  std::map<std::string, Shape> tensors;  ///< that it holds, all F32; from version 2 on
};

/// The content of manifest.json: the state, and the files that belong to the checkpoint.
struct CheckpointManifest {
  RunState state;
  std::vector<ManifestFile> files;  ///< the parts of the model in order, then those of the optimizer
  int version = checkpoint_version;
};

/// JSON text, always of the present version. Its key "sha256" is the SHA-256 of the compact dump, keys
/// sorted, of the document without that key; this rule and the keys "format" and "version" stay in every
/// later version. Throws InputError for text that is not UTF-8.
std::string encode_manifest(const CheckpointManifest& manifest);

/// The opposite. `path` names the file in messages. Throws InputError for what was damaged or made up, and
/// CheckpointVersionError for an undamaged one of a later version.
CheckpointManifest decode_manifest(const std::string& text, const std::string& path);

/// Reads the manifest of a checkpoint directory and checks that every file it lists has its size and, with
/// `hash`, its checksum. Errors as in load_checkpoint.
CheckpointManifest check_checkpoint(const std::string& directory, bool hash = true);

}  // namespace lockstep
