#include "trainer/cli/digest_command.h"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <iostream>
#include <optional>
#include <span>
#include <system_error>

#include "core/digest.h"
#include "core/error.h"
#include "core/printable.h"
#include "model/files/safetensors.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/run_directory.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

constexpr int digests_differ = 1;  // as with cmp and diff

std::string digest_of_file(const std::string& path) {
  TensorDigest digest;
  const SafetensorsFile file = SafetensorsFile::open(path);
  check_digest(file);
  add_to_digest(digest, file);
  return digest.hex();
}

std::string digest_of_checkpoint(const Checkpoint& c, bool state) {
  TensorDigest digest;
  c.model.add_to(digest);
  if (!state) return digest.hex();
  if (!c.optimizer) {
    throw InputError(
        fmt::format("'{}' holds weights alone and no training state; leave --state out", c.path));
  }
  c.optimizer->add_to(digest);
  const auto add = [&](const char* name, const std::int64_t& value) {
    digest.add(name, DType::i64, {}, std::as_bytes(std::span(&value, 1)));
  };
  add("training_state.step", c.state.step);
  add("training_state.position", c.state.position);
  return digest.hex();
}

}  // namespace

std::string digest_of(const std::string& path, bool state, std::vector<std::string>& passed_over) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    std::string digest = digest_of_file(path);
    if (state) {
      throw InputError(
          fmt::format("'{}' is a weight file and holds no training state; name a checkpoint or run "
                      "directory, or leave --state out",
                      path));
    }
    return digest;
  }
  if (fs::exists(path + "/" + manifest_file, ignored))
    return digest_of_checkpoint(load_checkpoint(path), state);
  const RunDirectory run(path);
  if (!run.holds_run()) {
    throw InputError(
        fmt::format("'{}' is neither a run nor a checkpoint directory; name one, or a weight file", path));
  }
  if (!state)
    if (const auto weights = weights_of_run(run.model())) return digest_of_file(weights->path());
  const std::optional<Checkpoint> newest = CheckpointStore(run.path()).load_newest(passed_over);
  if (!newest) {
    throw InputError(
        passed_over.empty()
            ? fmt::format("the run in '{}' has no whole checkpoint yet; let it reach one", run.path())
            : fmt::format("the run in '{}' has no whole checkpoint: {}", run.path(), passed_over.front()));
  }
  return digest_of_checkpoint(*newest, state);
}

int digest_command(const CommandLine& command, const Log& log) {
  const bool state = command.options.count("state") != 0;
  std::vector<std::string> digests;
  for (const std::string& path : command.arguments) {
    std::vector<std::string> passed_over;
    digests.push_back(digest_of(path, state, passed_over));
    for (const std::string& reason : passed_over) log.warning("{}", reason);
  }
  for (std::size_t i = 0; i < digests.size(); ++i)
    std::cout << digests[i] << "  " << printable(command.arguments[i]) << '\n';
  if (digests.size() < 2) return static_cast<int>(ExitCode::done);
  const bool equal =
      std::all_of(digests.begin(), digests.end(), [&](const std::string& d) { return d == digests[0]; });
  std::cout << (equal ? "equal\n" : "different\n");
  return equal ? static_cast<int>(ExitCode::done) : digests_differ;
}

}  // namespace lockstep
