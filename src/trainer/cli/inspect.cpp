#include "trainer/cli/inspect.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <span>
#include <system_error>
#include <vector>

#include "core/counted.h"
#include "core/error.h"
#include "core/file.h"
#include "core/numerics/finite.h"
#include "core/printable.h"
#include "core/text.h"
#include "data/readers/describe.h"
#include "data/readers/gzip.h"
#include "model/files/safetensors.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/run_directory.h"
#include "trainer/evaluate/best.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t widest_value = 200;  // columns of what a file says of itself

std::string value_text(std::string_view text) {
  return printable(text, widest_value);
}

std::string elements_text(std::int64_t elements) {
  return elements == 1 ? "1 element" : grouped_digits(elements) + " elements";
}

/// A line where the tensors hold NaN or infinity; else nothing.
template <class Tensors>
std::string nonfinite_line(const Tensors& file, const std::string& indent) {
  std::int64_t found = 0;
  std::string first;
  std::vector<float> values(std::size_t{1} << 16);
  for (const TensorInfo& t : file.tensors()) {
    if (t.dtype != DType::f32) continue;
    for (std::span<const std::byte> rest = file.bytes(t); !rest.empty();) {
      const auto part = std::span(values).first(std::min(values.size(), rest.size() / sizeof(float)));
      std::memcpy(part.data(), rest.data(), part.size_bytes());
      rest = rest.subspan(part.size_bytes());
      if (all_finite(part)) continue;
      found += std::count_if(part.begin(), part.end(), [](float v) { return !std::isfinite(v); });
      if (first.empty()) first = t.name;
    }
  }
  if (found == 0) return {};
  return fmt::format("{}{} NaN or infinite, the first in {}\n", indent,
                     found == 1 ? "1 value is" : grouped_digits(found) + " values are", value_text(first));
}

template <class Tensors>
std::string tensors_text(const Tensors& file, const std::string& indent) {
  TextTable table({"tensor", "dtype", "shape", "bytes"}, 100);
  std::int64_t elements = 0;
  std::uint64_t bytes = 0;
  for (const TensorInfo& t : file.tensors()) {
    table.add({t.name, name_of(t.dtype), t.shape.text(), std::to_string(t.bytes())});
    elements += t.shape.elements();
    bytes += t.bytes();
  }
  std::string out = table.text(indent);
  out += fmt::format("{}{}, {}, {}\n", indent,
                     counted(static_cast<std::int64_t>(file.tensors().size()), "tensor"),
                     elements_text(elements), human_bytes(bytes));
  out += nonfinite_line(file, indent);
  for (const auto& [key, value] : file.metadata()) {
    out += fmt::format("{}metadata {} = {}\n", indent, value_text(key), value_text(value));
  }
  return out;
}

std::string files_text(const std::string& directory) {
  std::string out = "files\n";
  for (const ManifestFile& f : check_checkpoint(directory, false).files)
    out +=
        fmt::format("  {}: {}, sha256 {}\n", value_text(f.name), human_bytes(f.bytes), value_text(f.sha256));
  return out;
}

std::string checkpoint_text(const std::string& directory) {
  const Checkpoint c = load_checkpoint(directory);
  const RunState& s = c.state;
  std::string out =
      fmt::format("checkpoint {}: whole, format version {}\n", value_text(directory), c.version);
  out += fmt::format("  generation {}, step {}, epoch {}, {} consumed\n", s.generation, s.step, s.epoch,
                     counted(s.position, "sample"));
  out += fmt::format("  {}, schedule over {}, reduction {}{}\n", counted(s.slices, "slice"),
                     counted(s.horizon, "step"), value_text(s.reduction),
                     s.any_fast ? " (part of the run was fast: its bits depend on the placement)" : "");
  if (const BestValidation& best = s.best; best.metric) {
    const std::string name = best.name.empty() && *best.metric < 0 ? "loss" : printable(best.name);
    out += fmt::format("  best validation: {} at step {}\n", best_text(best, name), best.step);
  }
  out += fmt::format("weights\n{}", tensors_text(c.model, "  "));
  if (c.optimizer) out += fmt::format("optimizer state\n{}", tensors_text(*c.optimizer, "  "));
  out += files_text(directory);
  out += "config\n";
  for (const std::string_view line : split(s.config, '\n')) {
    if (!trim(line).empty()) out += "  " + value_text(line) + "\n";
  }
  out += "fingerprint\n";
  for (const std::string_view line : split(s.fingerprint, '\n')) {
    if (!trim(line).empty()) out += "  " + value_text(line) + "\n";
  }
  return out;
}

// The state of one checkpoint in a line.
std::string verdict(const CheckpointRef& ref) {
  try {
    const RunState s = check_checkpoint(ref.path).state;
    return fmt::format("whole, epoch {}, {} consumed{}", s.epoch, counted(s.position, "sample"),
                       s.any_fast ? ", fast" : "");
  } catch (const InputError& e) {
    return fmt::format("not whole: {}", e.what());
  }
}

std::string weights_line(const std::string& name, const std::string& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return fmt::format("  {}: none yet\n", name);
  try {
    const SafetensorsFile file = SafetensorsFile::open(path);
    check_digest(file);
    std::int64_t elements = 0;
    for (const TensorInfo& t : file.tensors()) elements += t.shape.elements();
    return fmt::format("  {}: {}, {}\n", name,
                       counted(static_cast<std::int64_t>(file.tensors().size()), "tensor"),
                       elements_text(elements));
  } catch (const InputError& e) {
    return fmt::format("  {}: {}\n", name, printable(e.what(), 400));
  }
}

std::string run_text(const RunDirectory& run) {
  std::error_code ignored;
  std::string out = fmt::format("run {}\n", value_text(run.path()));
  out += "config\n";
  if (fs::exists(run.config(), ignored)) {
    const std::string config = read_file(run.config(), Empty::allow);
    for (const std::string_view line : split(config, '\n')) {
      const std::string_view text = trim(line);
      // Keys that were left empty say nothing.
      if (text.empty() || text.starts_with('#') || text.ends_with('=')) continue;
      out += "  " + value_text(line) + "\n";
    }
  } else {
    out += "  config.resolved.ini: missing\n";
  }
  const CheckpointStore store(run.path());
  const std::vector<CheckpointRef> all = store.list();
  out += fmt::format("checkpoints: {}\n", all.size());
  for (const CheckpointRef& ref : all) {
    out +=
        fmt::format("  generation {} step {}: {}\n", ref.generation, ref.step, printable(verdict(ref), 400));
  }
  for (const CheckpointRef& ref : store.list_best()) {
    out += fmt::format("  best weights, generation {} step {}: {}\n", ref.generation, ref.step,
                       printable(verdict(ref), 400));
  }
  out += "files\n";
  out += weights_line("model.safetensors", run.model());
  out += weights_line("best.safetensors", run.best());
  if (fs::exists(run.metrics(), ignored)) {
    const std::string lines = read_file(run.metrics(), Empty::allow);
    out +=
        fmt::format("  metrics.jsonl: {}\n", counted(std::count(lines.begin(), lines.end(), '\n'), "line"));
  }
  return out;
}

}  // namespace

std::string inspect_path(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    if (fs::exists(path + "/" + manifest_file, ignored)) return checkpoint_text(path);
    const RunDirectory run(path);
    if (run.holds_run()) return run_text(run);
    throw InputError(
        fmt::format("'{}' is neither a run nor a checkpoint directory; name one, or a file", path));
  }
  std::array<std::byte, 512> buffer;
  InputFile file(path, "");
  const std::span<const std::byte> head = std::span(buffer).first(file.read(buffer));
  // Byte 8 of a weight file opens its header, and N, below 2^27, leaves bytes 4 to 7 zero; an IDX file has an
  // extent there.
  const bool weights =
      head.size() > 8 && head[8] == std::byte{'{'} &&
      std::all_of(head.begin() + 4, head.begin() + 8, [](std::byte b) { return b == std::byte{0}; });
  if (!file.compressed() && (weights || path.ends_with(".safetensors"))) {
    const SafetensorsFile f = SafetensorsFile::open(path);
    check_digest(f);
    return fmt::format("weights {}\n{}", value_text(path), tensors_text(f, "  "));
  }
  if (is_idx_file(path) || looks_like_text(head)) return describe_data_file(path);
  throw InputError(fmt::format(
      "'{}' looks like {}, and inspect knows weights (safetensors), IDX and CSV data, and run and "
      "checkpoint directories; name one of these",
      path, guess_kind(head)));
}

}  // namespace lockstep
