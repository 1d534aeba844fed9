#include "trainer/checkpoint/checkpoint.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fmt/format.h>
#include <set>
#include <sys/stat.h>
#include <system_error>
#include <tuple>
#include <unistd.h>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "trainer/checkpoint/checkpoint_directories.h"
#include "trainer/checkpoint/checkpoint_manifest.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

}  // namespace

Checkpoint load_checkpoint(const std::string& directory) {
  CheckpointManifest manifest = check_checkpoint(directory);
  std::vector<SafetensorsFile> model, optimizer;
  for (const ManifestFile& f : manifest.files) {
    SafetensorsFile file = SafetensorsFile::open(directory + "/" + f.name);
    if (manifest.version >= 2) {
      std::map<std::string, Shape> held;
      for (const TensorInfo& t : file.tensors()) held.emplace(t.name, t.shape);
      if (held != f.tensors)
        throw InputError(fmt::format("'{}' is damaged: it does not hold the tensors that {} lists",
                                     file.path(), manifest_file));
    }
    (f.name.starts_with("model") ? model : optimizer).push_back(std::move(file));
  }
  const auto parts = [&](std::vector<SafetensorsFile> files) {
    return files.size() == 1 ? TensorParts(std::move(files.front()))
                             : TensorParts(std::move(files), directory);
  };
  Checkpoint c{directory, std::move(manifest.state), manifest.version, parts(std::move(model)), {}};
  if (!optimizer.empty()) c.optimizer = parts(std::move(optimizer));
  return c;
}

CheckpointStore::CheckpointStore(std::string run_directory)
    : directory_(std::move(run_directory) + "/checkpoints") {}

std::string CheckpointStore::generation_directory(int generation) const {
  return directory_ + "/" + generation_name(generation);
}

int CheckpointStore::highest_generation() const {
  std::int64_t highest = 0;
  for (const std::string& name : names_in(directory_))
    highest = std::max(highest, number_in(name, generation_prefix).value_or(0));
  if (highest >= 999'999'999)
    throw InputError(fmt::format("'{}': its generations are used up by '{}'; move that away", directory_,
                                 generation_name(highest)));
  return static_cast<int>(highest);
}

int CheckpointStore::claim_generation() {
  create_directory_exclusive(directory_);
  // Somebody else may take the number between the look and the attempt; then the next look is higher.
  constexpr int attempts = 1000;
  for (int i = 0; i < attempts; ++i) {
    const int next = highest_generation() + 1;
    if (create_directory_exclusive(generation_directory(next))) return next;
  }
  throw InputError(
      fmt::format("cannot claim a generation in '{}': others were faster {} times", directory_, attempts));
}

std::optional<int> CheckpointStore::superseded_by(int generation) const {
  const int highest = highest_generation();
  return highest > generation ? std::optional(highest) : std::nullopt;
}

PendingCheckpoint CheckpointStore::begin(int generation, CheckpointKind kind, std::int64_t step,
                                         std::uint64_t bytes) {
  const std::string parent = generation_directory(generation);
  PendingCheckpoint pending;
  pending.generation = generation;
  pending.name = step_name(kind == CheckpointKind::best ? best_prefix : step_prefix, step);
  pending.path = parent + "/" + pending.name;
  for (const std::string& name : names_in(parent)) {
    if (name.starts_with(saving_prefix + pending.name)) remove_hidden(parent, name);
  }
  const std::uint64_t free = free_bytes(parent);
  if (free < bytes) {
    throw InputError(
        fmt::format("no space for the checkpoint '{}': it needs {} and {} are free; make room there or "
                    "lower checkpoint.keep",
                    pending.path, human_bytes(bytes), human_bytes(free)));
  }
  // A name of its own for each attempt: no host can hold stale knowledge of it.
  pending.directory = fmt::format("{}/{}{}.{}", parent, saving_prefix, pending.name, ++attempts_);
  // Its entry need not be durable before the rename, which makes it so.
  if (::mkdir(pending.directory.c_str(), 0777) != 0) {
    const int error = errno;
    throw InputError(fmt::format("cannot create the directory '{}': {}", pending.directory,
                                 std::generic_category().message(error)));
  }
  return pending;
}

std::string CheckpointStore::commit(const PendingCheckpoint& pending, RunState state,
                                    std::vector<ManifestFile> files) {
  try {
    state.generation = pending.generation;
    for (const ManifestFile& f : files) {
      std::error_code error;
      const std::uintmax_t bytes = fs::file_size(pending.directory + "/" + f.name, error);
      if (error || bytes != f.bytes)
        throw InputError(fmt::format(
            "'{}/{}' is not there as it was written; the run directory must be one that all hosts "
            "share, and nobody else may change it",
            pending.directory, f.name));
    }
    FileWriter file(pending.directory + "/" + manifest_file);
    file.append(encode_manifest({std::move(state), std::move(files)}));
    file.close();
    sync_directory(pending.directory);
    publish_directory(pending.directory, pending.path);
    damaged_.erase(pending.path);
  } catch (...) {
    abandon(pending);
    throw;
  }
  return pending.path;
}

void CheckpointStore::abandon(const PendingCheckpoint& pending) noexcept {
  std::error_code ignored;
  fs::remove_all(pending.directory, ignored);
}

std::string CheckpointStore::save(int generation, RunState state, const std::vector<TensorView>& model,
                                  const std::vector<TensorView>& optimizer) {
  return write(generation, CheckpointKind::checkpoint, std::move(state), model, &optimizer);
}

std::string CheckpointStore::save_best(int generation, RunState state, const std::vector<TensorView>& model) {
  return write(generation, CheckpointKind::best, std::move(state), model, nullptr);
}

std::string CheckpointStore::write(int generation, CheckpointKind kind, RunState state,
                                   const std::vector<TensorView>& model,
                                   const std::vector<TensorView>* optimizer) {
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};
  const std::uint64_t bytes = safetensors_bytes(model, metadata) +
                              (optimizer != nullptr ? safetensors_bytes(*optimizer) : 0) +
                              encode_manifest({state, {}}).size() + checkpoint_slack_bytes;
  const PendingCheckpoint pending = begin(generation, kind, state.step, bytes);
  std::vector<ManifestFile> files;
  try {
    const auto add = [&](const char* file, const std::vector<TensorView>& tensors, const auto& with) {
      const WrittenFile w = write_new_safetensors(pending.directory + "/" + file, tensors, with);
      files.push_back({file, w.bytes, w.sha256, {}});
      for (const TensorView& t : tensors) files.back().tensors.emplace(t.name, t.shape);
    };
    add(model_file, model, metadata);
    if (optimizer != nullptr) add(optimizer_file, *optimizer, std::map<std::string, std::string>());
  } catch (...) {
    abandon(pending);
    throw;
  }
  return commit(pending, std::move(state), std::move(files));
}

std::vector<CheckpointRef> CheckpointStore::list_kind(const char* prefix) const {
  std::vector<CheckpointRef> all;
  for (const std::string& outer : names_in(directory_)) {
    const auto generation = number_in(outer, generation_prefix);
    std::error_code ignored;
    const fs::path parent = fs::path(directory_) / outer;
    if (!generation || !fs::is_directory(parent, ignored)) continue;
    for (const std::string& inner : names_in(parent)) {
      const auto step = number_in(inner, prefix);
      if (step) all.push_back({parent / inner, static_cast<int>(*generation), *step});
    }
  }
  std::sort(all.begin(), all.end(), [](const CheckpointRef& a, const CheckpointRef& b) {
    return std::tie(a.generation, a.step) > std::tie(b.generation, b.step);
  });
  return all;
}

std::vector<CheckpointRef> CheckpointStore::list() const {
  return list_kind(step_prefix);
}
std::vector<CheckpointRef> CheckpointStore::list_best() const {
  return list_kind(best_prefix);
}

std::string CheckpointStore::newest_name() const {
  const std::vector<CheckpointRef> all = list();
  return all.empty() ? "" : all.front().path;
}

void CheckpointStore::prune(int generation, std::int64_t keep) {
  require(keep >= 1, "checkpoint.keep is less than 1");
  std::set<std::int64_t> wanted_best;
  const auto want = [&](std::int64_t best_step) {
    wanted_best.insert(best_step);
    std::vector<std::string> ignored;
    // Where those could not be saved, the best before them are the best there are.
    try {
      if (const auto best = find_best(best_step, ignored, false)) wanted_best.insert(best->step);
    } catch (const CheckpointVersionError&) {
    }
  };
  std::int64_t newest = -1;
  for (const CheckpointRef& c : list()) {
    if (c.generation > generation) continue;
    if (keep > 0) {
      newest = std::max(newest, c.step);
      // A damaged one stays until there are enough whole ones, but is none of them.
      if (damaged_.count(c.path) != 0) continue;
      try {
        want(check_checkpoint(c.path, false).state.best.step);
        --keep;
      } catch (const InputError&) {
      }
      continue;
    }
    if (is_plain_directory(generation_directory(c.generation)) && is_own(c.path))
      remove_hidden(generation_directory(c.generation), step_name(step_prefix, c.step));
  }
  for (const CheckpointRef& b : list_best()) {
    if (b.generation > generation || wanted_best.count(b.step) != 0 || b.step > newest) continue;
    if (is_plain_directory(generation_directory(b.generation)) && is_own(b.path))
      remove_hidden(generation_directory(b.generation), step_name(best_prefix, b.step));
  }
  for (const std::string& outer : names_in(directory_)) {
    const auto n = number_in(outer, generation_prefix);
    const std::string parent = directory_ + "/" + outer;
    if (!n || *n > generation || !is_plain_directory(parent)) continue;
    for (const std::string& name : names_in(parent)) {
      if ((is_hidden_name(name) && is_own(parent + "/" + name)) || name.starts_with(checkpoint_probe_prefix))
        remove_hidden(parent, name);
    }
  }
}

std::optional<Checkpoint> CheckpointStore::load_newest(std::vector<std::string>& passed_over) {
  CheckpointRef ignored;
  return load_first_whole(passed_over, ignored);
}

std::optional<CheckpointRef> CheckpointStore::find_newest(std::vector<std::string>& passed_over) {
  CheckpointRef ref;
  if (!load_first_whole(passed_over, ref)) return std::nullopt;
  return ref;
}

std::optional<Checkpoint> CheckpointStore::load_first_whole(std::vector<std::string>& passed_over,
                                                            CheckpointRef& ref) {
  std::set<std::string> told;
  const auto pass_over = [&](const CheckpointRef& c, const std::string& why) {
    told.insert(c.path);
    damaged_.insert(c.path);
    passed_over.push_back(fmt::format("passed over the checkpoint '{}': {}", c.path, why));
  };
  constexpr int attempts = 1000;
  bool gone = true;
  for (int i = 0; gone && i < attempts; ++i) {
    gone = false;
    for (const CheckpointRef& c : list()) {
      if (told.count(c.path) != 0) continue;
      try {
        Checkpoint found = load_checkpoint(c.path);
        if (found.state.step != c.step) {
          pass_over(c, fmt::format("it holds step {}", found.state.step));
        } else if (found.state.generation != c.generation) {
          pass_over(c, fmt::format("it holds generation {}", found.state.generation));
        } else if (!found.optimizer) {
          pass_over(c, "it holds weights alone and no optimizer state");
        } else {
          ref = c;
          return found;
        }
      } catch (const CheckpointVersionError&) {
        throw;
      } catch (const InputError& e) {
        // A job that is under way has pruned it, and so has committed a newer one: look again.
        std::error_code ignored;
        gone = !fs::exists(fs::symlink_status(c.path, ignored));
        if (gone) break;
        pass_over(c, e.what());
      }
    }
  }
  return std::nullopt;
}

std::optional<CheckpointRef> CheckpointStore::find_best(std::int64_t step,
                                                        std::vector<std::string>& passed_over,
                                                        bool hash) const {
  std::vector<CheckpointRef> all = list_best();
  // Of one step the highest generation, as before.
  std::stable_sort(all.begin(), all.end(),
                   [](const CheckpointRef& a, const CheckpointRef& b) { return a.step > b.step; });
  for (const CheckpointRef& b : all) {
    if (b.step > step) continue;
    try {
      const std::int64_t held = check_checkpoint(b.path, hash).state.step;
      if (held == b.step) {
        if (held != step)
          passed_over.push_back(
              fmt::format("of the best weights, those of step {}, there is no whole copy; those of step {} "
                          "stand in for them, "
                          "the best before",
                          step, held));
        return b;
      }
      passed_over.push_back(
          fmt::format("passed over the best weights '{}': they are of step {}", b.path, held));
    } catch (const CheckpointVersionError&) {
      throw;
    } catch (const InputError& e) {
      passed_over.push_back(fmt::format("passed over the best weights '{}': {}", b.path, e.what()));
    }
  }
  return std::nullopt;
}

}  // namespace lockstep
