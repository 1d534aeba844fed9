#include "trainer/run/run_reporter.h"

#include <algorithm>
#include <fmt/format.h>
#include <iostream>
#include <utility>
#include <vector>

#include "comm/sync/gradient_sync.h"
#include "core/clock.h"

namespace lockstep {

RunReporter::RunReporter(const Job& job, const RunSetup& setup, const RunDirectory& directory,
                         const RunCourse& course, bool classes)
    : job_(job), setup_(setup), directory_(directory), course_(course), classes_(classes) {}

void RunReporter::open_rank_log(const World& world, int generation) {
  const Config& config = setup_.config;
  if (job_.leader()) {
    std::vector<std::int64_t> slices;
    std::vector<std::string> hosts;
    for (int r = 0; r < job_.comm.size(); ++r) {
      slices.push_back(slices_of_rank(config.train.slices, r, job_.comm.size()).size());
      hosts.push_back(world.ranks[static_cast<std::size_t>(r)].host);
    }
    stragglers_ =
        std::make_unique<StragglerWatch>(config.log.straggler_factor, std::move(slices), std::move(hosts));
  }
  if (!config.log.per_rank) return;
  agree_on_error(job_.comm, [&] { job_.log.append_to(directory_.log(job_.comm.rank())); });
  job_.log.note(fmt::format("rank {} of {}, generation {}{}", job_.comm.rank(), job_.comm.size(), generation,
                            config.run.resume ? ", resuming" : ""));
  job_.log.note(world.table());
}

void RunReporter::open_metrics(MetricsFile file) {
  metrics_.emplace(std::move(file));
}

MetricsFile::OnLoss RunReporter::on_lost_metrics() const {
  return [this](const std::string& cause) {
    job_.log.warning("step {}: a line of metrics is lost, the training goes on: {}", course_.steps, cause);
  };
}

void RunReporter::begin() {
  if (!job_.leader()) return;
  progress_ = std::make_unique<Progress>(std::cerr, Progress::for_stderr());
}

void RunReporter::begin_steps() {
  if (progress_) progress_->begin(state());
}

void RunReporter::end() {
  if (progress_) progress_->end();
}

void RunReporter::step_done() {
  if (progress_) progress_->update(state());
}

void RunReporter::evaluated(std::int64_t done, std::int64_t all) {
  if (progress_) progress_->work("evaluation: sample", done, all);
}

void RunReporter::print(const std::string& line) {
  if (progress_) progress_->result(line);
}

ProgressState RunReporter::state() const {
  const std::int64_t per_epoch = setup_.order.batches_per_epoch(),
                     before = std::max<std::int64_t>(course_.steps - 1, 0);
  return {before / per_epoch + 1,
          setup_.config.train.epochs,
          course_.steps,
          setup_.end_steps,
          course_.steps - before / per_epoch * per_epoch,
          per_epoch,
          course_.samples_here,
          course_.last_loss};
}

void RunReporter::tell_step(const StepSums& sums, double loss, const StepOutcome& outcome) {
  const std::int64_t done = sums.step + 1;
  if (!metrics_ || (done % setup_.config.log.every_steps != 0 && done != setup_.end_steps)) return;
  MetricsRecord record("train", done);
  record.add("loss", loss);
  if (classes_) record.add("accuracy", sums.correct / sums.counted);
  record.add("lr", outcome.lr);
  if (outcome.gradient_norm >= 0) record.add("gradient_norm", outcome.gradient_norm);
  if (progress_) record.add("samples_per_second", progress_->samples_per_second());
  metrics_->write(record);
}

bool RunReporter::tell_times(std::span<const RankTimes> all) {
  if (stragglers_) {
    if (const auto warning = stragglers_->look(all, steady_seconds())) {
      if (progress_) progress_->clear();
      job_.log.warning("{}", *warning);
    }
  }
  const RankTimes& mine = all[static_cast<std::size_t>(job_.comm.rank())];
  if (course_.steps % setup_.config.log.every_steps != 0 || mine.window <= 0) return false;
  if (job_.log.has_file())
    job_.log.note(
        fmt::format("step {}: median of {:.0f} steps {:.3f} ms; loading {:.3f} ms, computing {:.3f} ms, "
                    "waiting for other "
                    "ranks and summing {:.3f} ms",
                    course_.steps, mine.window, mine.median.step * 1e3, mine.median.load * 1e3,
                    mine.median.compute * 1e3, mine.median.wait * 1e3));
  if (!metrics_) return true;
  MetricsRecord record("timing", course_.steps);
  record.add("steps", static_cast<std::int64_t>(mine.window));
  for (const auto& [name, part] : {std::pair("step_ms", &StepTimes::step),
                                   {"load_ms", &StepTimes::load},
                                   {"compute_ms", &StepTimes::compute},
                                   {"wait_ms", &StepTimes::wait}}) {
    std::vector<double> values;
    for (const RankTimes& t : all) values.push_back(t.median.*part * 1e3);
    record.add(name, std::move(values));
  }
  metrics_->write(record);
  return true;
}

void RunReporter::tell_epoch(const MetricsRecord& record, const EpochLine& line) {
  if (metrics_) metrics_->write(record);
  print(epoch_line_text(line));
}

void RunReporter::tell_test(const MetricsRecord& record) {
  if (metrics_) metrics_->write(record);
}

void RunReporter::tell_change() {
  if (!job_.leader() || !setup_.schedule.changes_at(course_.steps)) return;
  for (const ScheduleChange& change : changes_of(setup_.config)) {
    if (change.from != course_.steps) continue;
    if (progress_) progress_->clear();
    const std::string text = changes_text({change});
    job_.log.info("from step {} on:{}", course_.steps + 1, text.substr(text.find(':') + 1));
    metrics_->write(MetricsRecord("change", course_.steps + 1).add("change", text));
  }
}

void RunReporter::tell_data_change(const std::string& what) {
  if (metrics_) metrics_->write(MetricsRecord("data_change", course_.steps).add("what", what));
}

void RunReporter::tell_skipped(const Guard& guard) {
  if (!metrics_) return;
  for (const SkippedBatch& skipped : guard.skipped()) {
    if (skipped.step != course_.steps) continue;
    MetricsRecord record("skipped", course_.steps + 1);
    record.add("epoch", skipped.epoch + 1).add("position", skipped.position).add("reason", skipped.reason);
    record.add("samples", skipped.samples);
    metrics_->write(record);
  }
}

void RunReporter::tell_rollback(std::int64_t from) {
  if (!job_.leader()) return;
  job_.log.warning("the run went back from step {} to step {}", from + 1, course_.steps);
  metrics_->write(MetricsRecord("rollback", course_.steps).add("from", from + 1));
}

void RunReporter::tell_repaired(const std::string& what) {
  if (!job_.leader()) return;
  job_.log.warning("{}", what);
  metrics_->write(MetricsRecord("repaired", course_.steps).add("reason", what));
}

void RunReporter::note_divergence() noexcept {
  if (!metrics_) return;
  try {
    metrics_->write(MetricsRecord("diverged", course_.steps));
  } catch (const std::exception& e) {
    job_.log.warning("{}", e.what());
  }
}

}  // namespace lockstep
