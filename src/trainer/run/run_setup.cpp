// How the learning rate of a training run is found, and changed by a resume.

#include <algorithm>
#include <fmt/format.h>
#include <limits>

#include "core/error.h"
#include "trainer/config/config_table.h"
#include "trainer/run/training_run.h"

namespace lockstep {

void TrainingRun::resolve_horizon() {
  Config::Schedule& s = config_.schedule;
  // A run that ends within its warm-up is told of it by schedule_remarks().
  if (s.steps == 0) s.steps = std::max(natural_end_, s.warmup_steps);
  stored_changes_ = s.changes;
  schedule_.emplace(config_);
}

std::vector<std::string> TrainingRun::change_schedule() {
  config_.schedule.changes = stored_changes_;
  std::vector<std::string> remarks;
  agree_on_error(job_.comm, [&] {
    std::map<std::string, std::string> values = config_.run.rate_change;
    const Config now = config_at(config_, std::numeric_limits<std::int64_t>::max());
    const auto steps = values.find("schedule.steps");
    const std::string name = with_values(now, values).schedule.name;
    if (steps != values.end() && name != "cosine") {
      if (steps->second != "0")
        remarks.push_back(fmt::format(
            "--schedule.steps {} has no effect: only a cosine has a horizon, and schedule.name is {}",
            steps->second, name));
      values.erase(steps);
    } else if (steps != values.end() && steps->second == "0") {
      const auto given = values.find("schedule.warmup_steps");
      const std::int64_t warmup = given == values.end() ? now.schedule.warmup_steps
                                                        : with_values(now, {*given}).schedule.warmup_steps;
      steps->second = std::to_string(std::max(natural_end_, warmup));
      // Given again by a job that was started again, it is what holds already.
      if (find_binding("schedule.steps")->get(now) == steps->second) values.erase(steps);
    }
    Config changed = config_;
    if (!values.empty())
      changed.schedule.changes = changes_text(with_change(changes_of(config_), steps_, values));
    for (std::string& remark : schedule_remarks(changed, steps_, end_steps_))
      remarks.push_back(std::move(remark));
    if (values.empty()) return;
    refuse_idle_change(config_, steps_, end_steps_, values);
    config_.schedule.changes = changed.schedule.changes;
  });
  schedule_.emplace(config_);
  return remarks;
}

void TrainingRun::tell_change() {
  if (!job_.leader() || !schedule_->changes_at(steps_)) return;
  for (const ScheduleChange& change : changes_of(config_)) {
    if (change.from != steps_) continue;
    if (progress_) progress_->clear();
    const std::string text = changes_text({change});
    job_.log.info("from step {} on:{}", steps_ + 1, text.substr(text.find(':') + 1));
    metrics_->write(MetricsRecord("change", steps_ + 1).add("change", text));
  }
}

}  // namespace lockstep
