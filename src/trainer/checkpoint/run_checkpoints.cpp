#include "trainer/checkpoint/run_checkpoints.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "core/file.h"
#include "core/flight_recorder.h"
#include "core/text.h"
#include "core/wire.h"
#include "device/cpu_info.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/step/model_state.h"

namespace lockstep {
namespace {

// What rank 0 tells of a save that is to begin. Behind save_begun stand the directories of the checkpoint and
// of the best weights, which may be empty.
constexpr int save_begun = 0, save_failed = 1, save_superseded = 2;

/// The first line in which two fingerprints differ, as "was …, is …"; empty when none does. `plan`: whether
/// the kernels of the plan count.
std::string first_difference(const std::string& was, const std::string& is, bool plan) {
  const std::vector<std::string_view> old_lines = split(was, '\n'), new_lines = split(is, '\n');
  for (std::size_t i = 0; i < std::max(old_lines.size(), new_lines.size()); ++i) {
    const std::string_view a = i < old_lines.size() ? old_lines[i] : "nothing";
    const std::string_view b = i < new_lines.size() ? new_lines[i] : "nothing";
    if (!plan && a.starts_with("plan:") && b.starts_with("plan:")) continue;
    if (a != b) return fmt::format("was \"{}\", is \"{}\"", a, b);
  }
  return "";
}

/// (all) The ranks that see the directory of this generation as rank 0 does. Without a file system that all
/// hosts share, the ranks of other hosts do not; those write nothing.
std::vector<int> find_writers(Communicator& comm, const Log& log, const std::string& directory) {
  // A name that no earlier run can have left on another host's own disk.
  std::string probe;
  if (comm.rank() == 0) {
    probe = fmt::format("{}/{}{}-{}", directory, checkpoint_probe_prefix, host_name(), ::getpid());
    try {
      FileWriter(probe).close();
    } catch (const InputError&) {
      // A full disk: what stands there will be said when a save fails. Ranks that see the directory write.
      probe = directory;
    }
  }
  probe = comm.broadcast_text(probe, 0);
  std::error_code ignored;
  const std::uint8_t seen = comm.rank() == 0 || std::filesystem::exists(probe, ignored) ? 1 : 0;
  std::vector<std::uint8_t> all(static_cast<std::size_t>(comm.size()));
  comm.all_gather(std::as_bytes(std::span(&seen, 1)), std::as_writable_bytes(std::span(all)));
  if (comm.rank() == 0 && probe != directory) std::filesystem::remove(probe, ignored);
  std::vector<int> writers;
  int blind = 0;
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r] != 0)
      writers.push_back(static_cast<int>(r));
    else
      ++blind;
  }
  if (blind > 0 && comm.rank() == 0)
    log.info("{} of {} ranks {} not see '{}', which their hosts do not share; the others write checkpoints",
             blind, all.size(), blind == 1 ? "does" : "do", directory);
  return writers;
}

}  // namespace

RunCheckpoints::RunCheckpoints(Communicator& comm, const Log& log, TrainStep& step, LanePool& lanes,
                               const std::string& run_directory, RunCheckpointsOptions options)
    : comm_(comm),
      log_(log),
      step_(step),
      lanes_(lanes),
      options_(std::move(options)),
      store_(run_directory) {}

bool RunCheckpoints::claim() {
  agree_on_error(comm_, [&] {
    if (comm_.rank() == 0) generation_ = store_.claim_generation();
  });
  comm_.broadcast(std::as_writable_bytes(std::span(&generation_, 1)), 0);
  const std::vector<int> writers = find_writers(comm_, log_, store_.generation_directory(generation_));
  writer_ =
      std::make_unique<CheckpointWriter>(comm_, store_, step_, lanes_, writers, options_.cpus, options_.keep);
  std::uint8_t changed = 0;
  agree_on_error(comm_, [&] {
    if (comm_.rank() == 0) changed = store_.newest_name() != newest_seen_ ? 1 : 0;
  });
  comm_.broadcast(std::as_writable_bytes(std::span(&changed, 1)), 0);
  return changed != 0;
}

RunCheckpoints::~RunCheckpoints() = default;

bool RunCheckpoints::save(const RunState& state, bool wait) {
  const bool attempted = state.step == attempted_step_;
  if (attempted && (!wait || this->wait())) return true;
  attempted_step_ = state.step;
  const bool begun = begin(CheckpointKind::checkpoint, state);
  if (!wait && options_.async) return begun;
  if (this->wait() || !wait || attempted) return last_ok_;
  // Somebody relies on this one, so it is tried once more.
  begin(CheckpointKind::checkpoint, state);
  return this->wait();
}

void RunCheckpoints::save_best(const RunState& state) {
  begin(CheckpointKind::best, state);
  if (!options_.async) wait();
}

bool RunCheckpoints::busy() {
  poll();
  std::uint8_t busy = writer_ && !writer_->idle() ? 1 : 0;
  comm_.broadcast(std::as_writable_bytes(std::span(&busy, 1)), 0);
  return busy != 0;
}

bool RunCheckpoints::save_with_best(const RunState& state) {
  attempted_step_ = state.step;
  return begin(CheckpointKind::checkpoint, state, {}, true);
}

void RunCheckpoints::save_best_of(const RunState& state, std::span<const float> weights) {
  begin(CheckpointKind::best, state, weights);
}

bool RunCheckpoints::begin(CheckpointKind kind, const RunState& state, std::span<const float> weights,
                           bool with_best) {
  if (!writer_) (void)claim();
  finish_own();
  std::string word;  // of rank 0
  PendingCheckpoint pending;
  std::optional<PendingCheckpoint> best;
  std::string superseded;
  if (comm_.rank() == 0) {
    try {
      superseded = superseded_text();
      if (superseded.empty()) {
        const std::uint64_t manifest = encode_manifest({state, {}}).size();
        pending = store_.begin(generation_, kind, state.step,
                               writer_->bytes(kind) + manifest + checkpoint_slack_bytes);
        if (with_best)
          best = store_.begin(generation_, CheckpointKind::best, state.step,
                              writer_->bytes(kind) + writer_->bytes(CheckpointKind::best) + manifest +
                                  checkpoint_slack_bytes);
        word = WireWriter().add(save_begun).add(pending.directory).add(best ? best->directory : "").text();
      } else {
        word = WireWriter().add(save_superseded).text();
      }
    } catch (const std::exception& e) {
      word = WireWriter().add(save_failed).text();
      if (!pending.directory.empty()) CheckpointStore::abandon(pending);
      report_failure(kind, state.step, e.what());
    }
  }
  word = comm_.broadcast_text(word, 0);
  WireReader told(word);
  const auto verdict = told.get<int>();
  if (verdict == save_superseded) throw_on_all(comm_, InputError(superseded));
  if (verdict == save_failed) {
    if (kind == CheckpointKind::checkpoint) last_ok_ = false;
    return false;
  }
  pending.directory = told.get<std::string>();
  if (const auto directory = told.get<std::string>(); !directory.empty()) {
    if (!best) best.emplace();
    best->directory = directory;
  }
  writer_->start(kind, pending, state, weights, best);
  return true;
}

void RunCheckpoints::finish_own() {
  if (!writer_ || writer_->idle()) return;
  const FlightScope scope(comm_.recorder(), Activity::save);  // a slow disk is no hang
  unsigned spins = 0;
  while (!writer_->idle()) {
    // Who waits for a disk is at work; who waits for others is not to blame.
    const bool working = writer_->working();
    const FlightScope scope(comm_.recorder(), working ? Activity::save : Activity::message);
    do {
      poll();
      comm_.poll();
      relax(spins);
    } while (!writer_->idle() && writer_->working() == working);
  }
}

void RunCheckpoints::poll() {
  if (!writer_ || writer_->idle()) return;
  writer_->poll();
  const std::optional<CheckpointWriter::Outcome> outcome = writer_->take_outcome();
  if (!outcome) return;
  if (!outcome->failure.empty()) {
    report_failure(outcome->kind, outcome->step, outcome->failure);
    return;
  }
  if (outcome->kind == CheckpointKind::checkpoint) {
    saved_step_ = outcome->step;
    last_ok_ = true;
  }
  if (!outcome->remark.empty())
    log_.warning("step {}: the checkpoint is saved, but older ones could not be removed: {}", outcome->step,
                 outcome->remark);
}

void RunCheckpoints::report_failure(CheckpointKind kind, std::int64_t step, const std::string& cause) {
  if (kind == CheckpointKind::best) {
    log_.warning("step {}: the best weights could not be saved, the training goes on: {}", step, cause);
    return;
  }
  last_ok_ = false;
  log_.warning("step {}: the checkpoint could not be saved, the training goes on: {}", step, cause);
}

bool RunCheckpoints::wait() {
  finish_own();
  struct Verdict {
    std::int64_t saved_step;
    std::int64_t ok;
  };
  Verdict verdict{saved_step_, last_ok_ ? 1 : 0};
  comm_.broadcast(std::as_writable_bytes(std::span(&verdict, 1)), 0);
  saved_step_ = verdict.saved_step;
  last_ok_ = verdict.ok != 0;
  return last_ok_;
}

std::string RunCheckpoints::superseded_text() const {
  const std::optional<int> newer = store_.superseded_by(generation_);
  if (!newer) return "";
  return fmt::format(
      "another job has taken over the run in '{}': it holds generation {} and this job generation {}; this "
      "one "
      "ends, and has displaced nothing; run one job at a time, or name another run.dir",
      parent_directory(store_.directory()), *newer, generation_);
}

void RunCheckpoints::check_not_superseded() {
  agree_on_error(comm_, [&] {
    if (comm_.rank() == 0) require_mine();
  });
}

void RunCheckpoints::require_mine() const {
  if (const std::string text = superseded_text(); !text.empty()) throw InputError(text);
}

std::optional<RunState> RunCheckpoints::restore(const RestoreOptions& options) {
  wait();
  std::optional<Checkpoint> found;
  std::string text;
  agree_on_error(comm_, [&] {
    if (comm_.rank() != 0) return;
    std::vector<std::string> passed_over;
    if (!writer_) generation_ = store_.superseded_by(0).value_or(0);
    newest_seen_ = store_.newest_name();
    found = store_.load_newest(passed_over);
    for (const std::string& reason : passed_over) log_.warning("{}", reason);
    if (!found) return;
    check_fits(*found, options);
    text = to_json(found->state).dump();
  });
  text = comm_.broadcast_text(text, 0);
  last_ok_ = true;
  attempted_step_ = saved_step_ = -1;
  if (text.empty()) return std::nullopt;
  RunState state = run_state_from_json(nlohmann::json::parse(text));
  load_model(
      comm_, step_.executor(),
      [&](const std::string& name, const Shape& shape, std::span<float> out) {
        found->model.read_f32(name, shape, out);
      },
      step_.writable_parameters());
  load_optimizer_state(
      comm_, step_.executor(),
      [&](const std::string& name, const Shape& shape, std::span<float> out) {
        if (!found->optimizer) throw InputError(found->path + ": it holds no optimizer state");
        found->optimizer->read_f32(name, shape, out);
      },
      step_.writable_optimizer());
  attempted_step_ = saved_step_ = state.step;
  return state;
}

void RunCheckpoints::check_fits(const Checkpoint& found, const RestoreOptions& options) const {
  const RunState& s = found.state;
  // The model before the numerics: the plan of another model differs too, and that would be the wrong thing
  // to say.
  std::vector<std::string> names;
  for (const FlatSegment& segment : step_.executor().layout().segments) names.push_back(segment.name);
  found.model.check_names(names);
  for (const FlatSegment& segment : step_.executor().layout().segments) {
    std::vector<float> unused(static_cast<std::size_t>(segment.shape.elements()));
    found.model.read_f32(segment.name, segment.shape, unused);
  }
  const bool other_slices = s.slices != options.slices;
  if (other_slices && !options.allow_slices_change)
    throw ConfigError(fmt::format(
        "{}: it was saved with train.slices = {}, not {}; use --allow-slices-change to go on with "
        "other bits from here on",
        found.path, s.slices, options.slices));
  // Kernels are chosen for a slice's size.
  const std::string difference = first_difference(s.fingerprint, options.fingerprint, !other_slices);
  if (!difference.empty() && !options.allow_numeric_change)
    throw ConfigError(
        fmt::format("{}: it was saved on another kind of machine or by another build, which changes the "
                    "last bits of results ({}); use --allow-numeric-change to go on all the same",
                    found.path, difference));
  if (!s.fault.empty())
    throw InputError(fmt::format(
        "{}: the state in the manifest of step {} cannot be read: {}; move that checkpoint away to go on "
        "from an older one",
        store_.directory(), s.step, s.fault));
  log_.info("resuming from {} (generation {}, step {})", found.path, s.generation, s.step);
  if (other_slices)
    log_.warning(
        "train.slices changes from {} to {} with step {}: from there on the results are those of {}, "
        "at "
        "any number of ranks, and not those that this run would have had",
        s.slices, options.slices, s.step + 1, counted(options.slices, "slice"));
}

}  // namespace lockstep
