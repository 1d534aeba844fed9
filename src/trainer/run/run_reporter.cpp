// What a training run tells of the ranks' times: metrics, the logs of ranks, and the warning about a slow
// one.

#include <fmt/format.h>

#include "comm/world.h"
#include "core/clock.h"
#include "core/error.h"
#include "trainer/run/training_run.h"

namespace lockstep {

void TrainingRun::open_rank_log(const World& world) {
  if (job_.leader()) {
    std::vector<std::int64_t> slices;
    std::vector<std::string> hosts;
    for (int r = 0; r < job_.comm.size(); ++r) {
      slices.push_back(slices_of_rank(config_.train.slices, r, job_.comm.size()).size());
      hosts.push_back(world.ranks[static_cast<std::size_t>(r)].host);
    }
    stragglers_ =
        std::make_unique<StragglerWatch>(config_.log.straggler_factor, std::move(slices), std::move(hosts));
  }
  if (!config_.log.per_rank) return;
  agree_on_error(job_.comm, [&] { job_.log.append_to(directory_.log(job_.comm.rank())); });
  job_.log.note(fmt::format("rank {} of {}, generation {}{}", job_.comm.rank(), job_.comm.size(),
                            checkpoints_->generation(), config_.run.resume ? ", resuming" : ""));
  job_.log.note(world.table());
}

void TrainingRun::add_times(StepTimes times, double load, bool behind) {
  times.load = load;
  if (!behind) times.step += load;
  times_.add(times);
}

void TrainingRun::report_times() {
  const std::span<const RankTimes> all = losses_->times();
  if (stragglers_) {
    if (const auto warning = stragglers_->look(all, steady_seconds())) {
      if (progress_) progress_->clear();
      job_.log.warning("{}", *warning);
    }
  }
  const RankTimes& mine = all[static_cast<std::size_t>(job_.comm.rank())];
  if (steps_ % config_.log.every_steps != 0 || mine.window <= 0) return;
  times_.clear_window();
  if (job_.log.has_file())
    job_.log.note(
        fmt::format("step {}: median of {:.0f} steps {:.3f} ms; loading {:.3f} ms, computing {:.3f} ms, "
                    "waiting for other "
                    "ranks and summing {:.3f} ms",
                    steps_, mine.window, mine.median.step * 1e3, mine.median.load * 1e3,
                    mine.median.compute * 1e3, mine.median.wait * 1e3));
  if (!metrics_) return;
  MetricsRecord record("timing", steps_);
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
}

}  // namespace lockstep
