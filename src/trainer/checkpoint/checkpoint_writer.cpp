#include "trainer/checkpoint/checkpoint_writer.h"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <functional>
#include <system_error>
#include <type_traits>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "device/cpu_info.h"

namespace lockstep {
namespace {

constexpr int report_tag = 73;

constexpr std::size_t best_place = 2;  // in the files of a report

constexpr std::array kinds = {PartKind::model, PartKind::optimizer};

}  // namespace

/// A rank that writes, as rank 0 sees it.
struct CheckpointWriter::Source {
  int rank = 0;
  Report report{};
  std::unique_ptr<PersistentRequest> receive;
};

CheckpointWriter::CheckpointWriter(Communicator& comm, CheckpointStore& store, const TrainStep& step,
                                   LanePool& lanes, const std::vector<int>& writers, std::vector<int> cpus,
                                   std::int64_t keep)
    : comm_(comm),
      store_(store),
      who_(comm.size() > 1 ? fmt::format("rank {} on {}: ", comm.rank(), host_name()) : ""),
      keep_(keep),
      snapshot_(comm, step, lanes, writers),
      thread_(std::move(cpus)) {
  static_assert(std::is_trivially_copyable_v<Report>);
  checkpoint_bytes_ = snapshot_.total_bytes(true);
  best_bytes_ = snapshot_.total_bytes(false);
  if (comm.rank() != 0) {
    send_ = comm.make_send(std::as_bytes(std::span(&mine_, 1)), 0, report_tag);
    return;
  }
  for (const int writer : writers) {
    if (writer == 0) continue;
    sources_.push_back(std::make_unique<Source>());
    Source& source = *sources_.back();
    source.rank = writer;
    source.receive =
        comm.make_receive(std::as_writable_bytes(std::span(&source.report, 1)), writer, report_tag);
  }
}

CheckpointWriter::~CheckpointWriter() {
  cancelled_.store(true, std::memory_order_relaxed);
}

void CheckpointWriter::start(CheckpointKind kind, const PendingCheckpoint& pending, const RunState& state,
                             std::span<const float> weights, const std::optional<PendingCheckpoint>& best) {
  require(idle(), "a save was begun while another one is in flight");
  kind_ = kind;
  pending_ = pending;
  best_ = best;
  state_ = state;
  snapshot_.take(kind == CheckpointKind::checkpoint, weights);
  const auto writes = [&](int rank) {
    return std::any_of(kinds.begin(), kinds.end(), [&](PartKind k) {
      return (k == PartKind::model || kind == CheckpointKind::checkpoint) &&
             !snapshot_.part(k, rank).name.empty();
    });
  };
  for (const auto& source : sources_) {
    source->report = {};
    if (writes(source->rank)) source->receive->start();
  }
  mine_ = {};
  stage_ = Stage::writing;
  if (!writes(comm_.rank())) return;
  const std::string failure =
      start_thread([this, kind, directory = pending.directory, second = best ? best->directory : ""] {
        write_parts(kind, directory, second);
      });
  if (!failure.empty()) report(failure);
}

std::string CheckpointWriter::start_thread(std::function<void()> job) {
  try {
    thread_.start(std::move(job));
    return "";
  } catch (const std::system_error& e) {
    return fmt::format("the thread that writes cannot be started: {}", e.what());
  }
}

void CheckpointWriter::report(const std::string& failure) {
  const std::string text = who_ + failure;
  std::copy_n(text.begin(), std::min(text.size(), mine_.failure.size() - 1), mine_.failure.begin());
}

void CheckpointWriter::tell(const ManifestFile& file, std::size_t place) {
  Report::File& told = mine_.files[place];
  told.bytes = file.bytes;
  std::copy_n(file.sha256.begin(), told.sha256.size(), told.sha256.begin());
}

void CheckpointWriter::abandon() noexcept {
  CheckpointStore::abandon(pending_);
  if (best_) CheckpointStore::abandon(*best_);
}

void CheckpointWriter::write_parts(CheckpointKind kind, const std::string& directory,
                                   const std::string& best) {
  try {
    bool any = false;
    if (!best.empty() && !snapshot_.part(PartKind::model, comm_.rank()).name.empty()) {
      tell(snapshot_.write_part(PartKind::model, best, cancelled_), best_place);
      if (comm_.rank() != 0) sync_directory(best);
    }
    for (const PartKind part : kinds) {
      if (part == PartKind::optimizer && kind == CheckpointKind::best) continue;
      if (snapshot_.part(part, comm_.rank()).name.empty()) continue;
      tell(snapshot_.write_part(part, directory, cancelled_), static_cast<std::size_t>(part));
      any = true;
    }
    // Each rank its own entries: rank 0's host may not know of them yet.
    if (any && comm_.rank() != 0) sync_directory(directory);
  } catch (const std::exception& e) {
    report(*e.what() != '\0' ? e.what() : "an error without a text");
  }
}

void CheckpointWriter::poll() {
  if (stage_ == Stage::idle) return;
  if (stage_ == Stage::writing && thread_.idle()) {
    if (comm_.rank() == 0) {
      collect();
    } else if (mine_.files[0].bytes > 0 || mine_.files[1].bytes > 0 || mine_.failure[0] != '\0') {
      send_->start();
      stage_ = Stage::reporting;
    } else {
      stage_ = Stage::idle;  // nothing fell to this rank
    }
  }
  if (stage_ == Stage::reporting && send_->test()) stage_ = Stage::idle;
  if (stage_ == Stage::committing && thread_.idle()) {
    outcome_ = Outcome{kind_, state_.step, std::move(give_up_), std::move(remark_)};
    if (!thread_.failure().empty()) outcome_->failure = who_ + thread_.failure();
    stage_ = Stage::idle;
  }
}

void CheckpointWriter::collect() {
  bool all = true;
  for (const auto& source : sources_) all = source->receive->test() && all;
  if (!all) return;
  stage_ = Stage::committing;
  give_up_ = failures();
  remark_.clear();
  if (!give_up_.empty()) {
    if (!start_thread([this] { abandon(); }).empty()) abandon();
    return;
  }
  const std::string failure = start_thread([this] {
    if (best_) {
      // First: no checkpoint names best weights that are not there.
      try {
        store_.commit(*best_, state_, files(CheckpointKind::best));
      } catch (const std::exception&) {
        CheckpointStore::abandon(pending_);
        throw;
      }
    }
    store_.commit(pending_, state_, files(kind_));
    if (kind_ == CheckpointKind::best) return;
    try {
      store_.prune(pending_.generation, keep_);
    } catch (const std::exception& e) {
      remark_ = e.what();
    }
  });
  if (failure.empty()) return;
  give_up_ = who_ + failure;
  abandon();
}

std::string CheckpointWriter::failures() const {
  std::string text(mine_.failure.data());
  int more = 0;
  for (const auto& source : sources_) {
    if (source->report.failure[0] == '\0') continue;
    if (text.empty())
      text = source->report.failure.data();
    else
      ++more;
  }
  if (more > 0) text += fmt::format(" (and {} more rank{})", more, more == 1 ? "" : "s");
  return text;
}

std::vector<ManifestFile> CheckpointWriter::files(CheckpointKind which) const {
  std::vector<ManifestFile> list;
  for (const PartKind kind : kinds) {
    if (kind == PartKind::optimizer && which == CheckpointKind::best) continue;
    const auto add = [&](int rank, const Report& report) {
      ManifestFile file = snapshot_.part(kind, rank);
      if (file.name.empty()) return;
      const bool beside = which == CheckpointKind::best && best_;
      const Report::File& told = report.files[beside ? best_place : static_cast<std::size_t>(kind)];
      file.bytes = told.bytes;
      file.sha256.assign(told.sha256.data(), told.sha256.size());
      list.push_back(std::move(file));
    };
    add(0, mine_);
    for (const auto& source : sources_) add(source->rank, source->report);
  }
  return list;
}

std::optional<CheckpointWriter::Outcome> CheckpointWriter::take_outcome() {
  return std::exchange(outcome_, std::nullopt);
}

}  // namespace lockstep
