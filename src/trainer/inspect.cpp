#include "trainer/inspect.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fmt/format.h>
#include <span>
#include <system_error>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "model/safetensors.h"
#include "trainer/checkpoint.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/data/csv_reader.h"
#include "trainer/data/gzip.h"
#include "trainer/data/idx.h"
#include "trainer/run_directory.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

// Fit for a terminal: no control bytes from a file.
std::string plain(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; },
      '?');
  return text;
}

// Columns to the left, two spaces between.
class Table {
 public:
  explicit Table(std::vector<std::string> head) { rows_.push_back(std::move(head)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text(const std::string& indent) const {
    std::vector<std::size_t> widths(rows_[0].size(), 0);
    for (const auto& row : rows_) {
      for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
    }
    std::string out;
    for (const auto& row : rows_) {
      std::string line = indent;
      for (std::size_t c = 0; c < row.size(); ++c) {
        line += c + 1 < row.size() ? fmt::format("{:<{}}  ", row[c], widths[c]) : row[c];
      }
      out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
    }
    return out;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

template <class Tensors>
std::string tensors_text(const Tensors& file, const std::string& indent) {
  Table table({"tensor", "dtype", "shape", "bytes"});
  std::int64_t elements = 0;
  std::uint64_t bytes = 0;
  for (const TensorInfo& t : file.tensors()) {
    table.add({plain(t.name), name_of(t.dtype), t.shape.text(), std::to_string(t.bytes())});
    elements += t.shape.elements();
    bytes += t.bytes();
  }
  std::string out = table.text(indent);
  out += fmt::format("{}{} tensors, {} elements, {}\n", indent, file.tensors().size(),
                     grouped_digits(elements), human_bytes(bytes));
  for (const auto& [key, value] : file.metadata()) {
    out += fmt::format("{}metadata {} = {}\n", indent, plain(key), plain(value));
  }
  return out;
}

std::string files_text(const std::string& directory) {
  std::string out = "files\n";
  for (const ManifestFile& f : check_checkpoint(directory, false).files)
    out += fmt::format("  {}: {}, sha256 {}\n", f.name, human_bytes(f.bytes), plain(f.sha256));
  return out;
}

std::string checkpoint_text(const std::string& directory) {
  const Checkpoint c = load_checkpoint(directory);
  const TrainingState& s = c.state;
  std::string out = fmt::format("checkpoint {}: whole, format version {}\n", directory, c.version);
  out += fmt::format("  generation {}, step {}, epoch {}, {} samples consumed\n", s.generation, s.step,
                     s.epoch, s.position);
  out += fmt::format("  {} slices, schedule over {} steps, reduction {}{}\n", s.slices, s.horizon,
                     plain(s.reduction),
                     s.any_fast ? " (part of the run was fast: its bits depend on the placement)" : "");
  if (s.best_metric) out += fmt::format("  best validation {} at step {}\n", *s.best_metric, s.best_step);
  out += fmt::format("weights\n{}", tensors_text(c.model, "  "));
  if (c.optimizer) out += fmt::format("optimizer state\n{}", tensors_text(*c.optimizer, "  "));
  out += files_text(directory);
  out += "config\n";
  for (const std::string_view line : split(s.config, '\n')) {
    if (!trim(line).empty()) out += "  " + plain(std::string(line)) + "\n";
  }
  out += "fingerprint\n";
  for (const std::string_view line : split(s.fingerprint, '\n')) {
    if (!trim(line).empty()) out += "  " + plain(std::string(line)) + "\n";
  }
  return out;
}

// The state of one checkpoint in a line.
std::string verdict(const CheckpointRef& ref) {
  try {
    const TrainingState s = check_checkpoint(ref.path).state;
    return fmt::format("whole, epoch {}, {} samples consumed{}", s.epoch, s.position,
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
    std::int64_t elements = 0;
    for (const TensorInfo& t : file.tensors()) elements += t.shape.elements();
    return fmt::format("  {}: {} tensors, {} elements\n", name, file.tensors().size(),
                       grouped_digits(elements));
  } catch (const InputError& e) {
    return fmt::format("  {}: {}\n", name, e.what());
  }
}

std::string run_text(const RunDirectory& run) {
  std::error_code ignored;
  std::string out = fmt::format("run {}\n", run.path());
  out += "config\n";
  if (fs::exists(run.config(), ignored)) {
    const std::string config = read_file(run.config(), Empty::allow);
    for (const std::string_view line : split(config, '\n')) {
      const std::string_view text = trim(line);
      // Keys that were left empty say nothing.
      if (text.empty() || text.starts_with('#') || text.ends_with('=')) continue;
      out += "  " + plain(std::string(line)) + "\n";
    }
  } else {
    out += "  config.resolved.ini: missing\n";
  }
  const CheckpointStore store(run.path());
  const std::vector<CheckpointRef> all = store.list();
  out += fmt::format("checkpoints: {}\n", all.size());
  for (const CheckpointRef& ref : all) {
    out += fmt::format("  generation {} step {}: {}\n", ref.generation, ref.step, plain(verdict(ref)));
  }
  for (const CheckpointRef& ref : store.list_best()) {
    out += fmt::format("  best weights, generation {} step {}: {}\n", ref.generation, ref.step,
                       plain(verdict(ref)));
  }
  out += "files\n";
  out += weights_line("model.safetensors", run.model());
  out += weights_line("best.safetensors", run.best());
  if (fs::exists(run.metrics(), ignored)) {
    const std::string lines = read_file(run.metrics(), Empty::allow);
    out += fmt::format("  metrics.jsonl: {} lines\n", std::count(lines.begin(), lines.end(), '\n'));
  }
  return out;
}

bool is_idx(std::span<const std::byte> head) {
  constexpr std::array types = {IdxType::u8,  IdxType::i8,  IdxType::i16,
                                IdxType::i32, IdxType::f32, IdxType::f64};
  return head.size() >= 4 && head[0] == std::byte{0} && head[1] == std::byte{0} &&
         std::any_of(types.begin(), types.end(),
                     [&](IdxType t) { return head[2] == static_cast<std::byte>(t); });
}

std::string idx_text(const std::string& path) {
  const IdxArray array = read_idx(path, "");
  return fmt::format("IDX data {}: {}, {} elements\n", path, array.shape_text(),
                     grouped_digits(array.elements()));
}

std::string csv_text(const std::string& path) {
  constexpr std::uint64_t most = std::uint64_t{8} << 30;
  InputFile file(path, "");
  const std::string text = read_all(file, most);
  CsvReader reader(text, file.origin());
  std::vector<std::string> first;
  std::int64_t rows = 0;
  for (; reader.next(); ++rows) {
    if (rows == 0) {
      first.assign(reader.fields().begin(), reader.fields().end());
    } else if (reader.fields().size() != first.size()) {
      throw InputError(fmt::format("{} line {} has {} fields, but line 1 has {}; make them equal",
                                   file.origin(), reader.line(), reader.fields().size(), first.size()));
    }
  }
  if (rows == 0) throw InputError(fmt::format("{} holds no rows", file.origin()));
  const bool header =
      std::none_of(first.begin(), first.end(), [](const std::string& f) { return parse_double(f); });
  std::string out = fmt::format("CSV data {}: {} rows, {} columns{}\n", path, rows - (header ? 1 : 0),
                                first.size(), header ? ", and a header" : ", no header");
  if (header) {
    for (std::size_t c = 0; c < first.size(); ++c) out += fmt::format("  {}  {}\n", c, plain(first[c]));
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
    return fmt::format("weights {}\n{}", path, tensors_text(f, "  "));
  }
  if (is_idx(head)) return idx_text(path);
  if (looks_like_text(head)) return csv_text(path);
  throw InputError(fmt::format(
      "'{}' looks like {}, and inspect knows weights (safetensors), IDX and CSV data, and run and "
      "checkpoint directories; name one of these",
      path, guess_kind(head)));
}

}  // namespace lockstep
