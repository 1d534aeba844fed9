#include "trainer/checkpoint/checkpoint_manifest.h"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/counted.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json_number.h"
#include "trainer/config/config.h"

namespace lockstep {
namespace {

using nlohmann::json;

constexpr const char* format_name = "lockstep checkpoint";
// Far above what the trainer nests; the library's dump() recurses, so depth must be bounded.
constexpr int max_depth = 64;

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
  throw InputError(fmt::format("'{}' is damaged: {}", path, what));
}

std::string checksum_of(json document) {
  document.erase("sha256");
  return sha256_hex(document.dump());
}

json parse(const std::string& text, const std::string& path) {
  // The parser takes a zero byte for the end.
  if (text.find('\0') != text.npos) damaged(path, "it holds a zero byte");
  try {
    return json::parse(text, [&](int depth, json::parse_event_t, json&) {
      if (depth > max_depth) damaged(path, "it is nested too deeply");
      return true;
    });
  } catch (const json::exception&) {
    damaged(path, "it is not JSON");
  }
}

// A value that no Lockstep writes; decode_manifest() adds the path.
struct BadValue {
  std::string what;
};

const char* stem_of(PartKind kind) {
  return kind == PartKind::model ? "model" : "optimizer";
}

// Counts are added to and multiplied: none may come near the end of int64.
constexpr std::int64_t most_counted = std::int64_t{1} << 62;

// Throws json::exception where the key is missing.
std::int64_t integer(const json& document, const char* key, std::int64_t least) {
  return json_integer(document, key, least, most_counted);
}

std::map<std::string, Shape> tensors_of(const json& table) {
  if (!table.is_object()) throw BadValue{"a list of tensors is not an object"};
  std::map<std::string, Shape> tensors;
  for (const auto& [name, dims] : table.items()) {
    std::vector<std::int64_t> extents;
    if (!dims.is_array()) throw BadValue{fmt::format("the shape of '{}' is not a list", name)};
    for (const json& extent : dims) {
      extents.push_back(json_integer_of(extent, "the shape of " + name, 0, most_counted));
    }
    tensors.emplace(name, Shape(extents));
  }
  return tensors;
}

std::vector<ManifestFile> files_of(const json& d, std::int64_t version) {
  std::vector<ManifestFile> files;
  for (const json& f : d.at("files")) {
    ManifestFile file;
    file.name = f.at("name").get<std::string>();
    file.bytes = static_cast<std::uint64_t>(integer(f, "bytes", 0));
    file.sha256 = f.at("sha256").get<std::string>();
    if (version >= 2) file.tensors = tensors_of(f.at("tensors"));
    files.push_back(std::move(file));
  }
  if (files.empty()) throw BadValue{"it lists no files"};
  // Names come from the file: none may lead out of the directory, and no part may be missing.
  const auto is_of = [](const ManifestFile& f, PartKind kind) { return f.name.starts_with(stem_of(kind)); };
  const auto models = static_cast<std::size_t>(std::count_if(
      files.begin(), files.end(), [&](const ManifestFile& f) { return is_of(f, PartKind::model); }));
  for (std::size_t i = 0; i < files.size(); ++i) {
    const bool model = i < models;
    const std::string expected = part_name(model ? PartKind::model : PartKind::optimizer,
                                           static_cast<std::int64_t>(model ? i : i - models),
                                           static_cast<std::int64_t>(model ? models : files.size() - models));
    if (models == 0 || files[i].name != expected)
      throw BadValue{"its list of files is not that of a checkpoint"};
  }
  return files;
}

/// From version 3 on without the keys that are named.
std::string config_digest(const json& d, std::int64_t version) {
  const std::string config = d.at("config").get<std::string>();
  if (version == 2) return sha256_hex(config);
  return sha256_hex(without_keys(config, d.at("config_without").get<std::vector<std::string>>()));
}

}  // namespace

std::string part_name(PartKind kind, std::int64_t number, std::int64_t parts) {
  if (parts == 1) return std::string(stem_of(kind)) + ".safetensors";
  return fmt::format("{}-{:05}-of-{:05}.safetensors", stem_of(kind), number + 1, parts);
}

bool is_part_name(const std::string& name) {
  for (const PartKind kind : {PartKind::model, PartKind::optimizer}) {
    if (name == part_name(kind, 0, 1)) return true;
    std::string shape = name;
    std::replace_if(
        shape.begin(), shape.end(), [](char c) { return c >= '0' && c <= '9'; }, '0');
    if (shape == fmt::format("{}-00000-of-00000.safetensors", stem_of(kind))) return true;
  }
  return false;
}

std::string encode_manifest(const CheckpointManifest& manifest) {
  // Which keys are placement keys may change with the program.
  const std::vector<std::string> placement = placement_keys();
  json files = json::array();
  for (const ManifestFile& f : manifest.files) {
    json tensors = json::object();
    for (const auto& [name, shape] : f.tensors) tensors[name] = shape.dims();
    files.push_back(
        {{"name", f.name}, {"bytes", f.bytes}, {"sha256", f.sha256}, {"tensors", std::move(tensors)}});
  }
  try {
    json d = to_json(manifest.state);
    d["format"] = format_name;
    d["version"] = checkpoint_version;
    d["config_without"] = placement;
    d["config_sha256"] = sha256_hex(without_keys(manifest.state.config, placement));
    d["files"] = std::move(files);
    d["sha256"] = checksum_of(d);
    return d.dump(1) + "\n";
  } catch (const json::exception& e) {
    throw InputError(fmt::format(
        "the state of the run cannot be saved as JSON ({}); use UTF-8 in the config and in file names",
        json_fault(e)));
  }
}

CheckpointManifest decode_manifest(const std::string& text, const std::string& path) {
  json d = parse(text, path);
  if (!d.is_object() || !d.contains("format") || d["format"] != format_name) {
    damaged(path, "it is not the manifest of a Lockstep checkpoint");
  }
  try {
    if (d.at("sha256").get<std::string>() != checksum_of(d)) {
      const auto claimed = d.find("version");
      const bool future = claimed != d.end() && claimed->is_number_integer() &&
                          claimed->get<std::int64_t>() > checkpoint_version;
      damaged(path, std::string("its checksum does not match its content") +
                        (future ? ", which claims to be of the format version " + claimed->dump() : ""));
    }
    const std::int64_t version = integer(d, "version", 1);
    if (version > checkpoint_version) {
      throw CheckpointVersionError(
          fmt::format("'{}' has the checkpoint format version {}, and this Lockstep reads up to {}; use a "
                      "newer Lockstep, or move the "
                      "checkpoint away to go on from an older one",
                      path, version, checkpoint_version));
    }
    CheckpointManifest manifest{run_state_from_json(d), files_of(d, version), static_cast<int>(version)};
    if (version >= 2 && d.at("config_sha256").get<std::string>() != config_digest(d, version))
      damaged(path, "the digest of its config is not that of its config");
    return manifest;
  } catch (const json::exception&) {
    damaged(path, "a key is missing or of another kind");
  } catch (const BadValue& e) {
    damaged(path, e.what);
  } catch (const JsonNumberError& e) {
    damaged(path, e.what());
  }
}

CheckpointManifest check_checkpoint(const std::string& directory, bool hash) {
  const std::string path = directory + "/" + manifest_file;
  // Some hundred bytes a tensor and skipped sample: far below this.
  constexpr std::uint64_t most = std::uint64_t{1} << 28;
  std::error_code unknown;
  if (const std::uintmax_t size = std::filesystem::file_size(path, unknown); !unknown && size > most)
    damaged(path, "it has " + counted(static_cast<std::int64_t>(size), "byte"));
  CheckpointManifest manifest = decode_manifest(read_file(path), path);
  for (const ManifestFile& f : manifest.files) {
    const std::string name = directory + "/" + f.name;
    const MappedFile file(name);
    if (file.size() != f.bytes) {
      damaged(name, fmt::format("it holds {} instead of {}",
                                counted(static_cast<std::int64_t>(file.size()), "byte"), f.bytes));
    }
    if (hash && sha256_hex(file.bytes()) != f.sha256) {
      damaged(name, fmt::format("its checksum is not the one in {}", manifest_file));
    }
  }
  return manifest;
}

}  // namespace lockstep
