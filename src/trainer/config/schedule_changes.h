#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "optim/schedule.h"
#include "trainer/config/config.h"

namespace lockstep {

/// Whether a run may change this key in its course: optimizer.lr and what makes the schedule.
bool is_rate_key(const std::string& key);

/// Other values of rate keys, which hold from a step on. Steps count from 0: the step `from` is the first
/// that is taken with them, and a checkpoint of step `from` is the last without.
struct ScheduleChange {
  std::int64_t from = 0;
  std::map<std::string, std::string> values;  ///< rate key -> value as text
  friend bool operator==(const ScheduleChange&, const ScheduleChange&) = default;
};

/// "40: optimizer.lr=0.01 schedule.steps=200; 90: optimizer.lr=0.001", the text of schedule.changes: steps
/// rise, every change holds something, keys are rate keys. The empty text is an empty list; nothing where the
/// text is no such list. Values are not looked at.
std::optional<std::vector<ScheduleChange>> parse_changes(std::string_view text);
/// The opposite.
std::string changes_text(const std::vector<ScheduleChange>& changes);
/// Those of config.schedule.changes.
std::vector<ScheduleChange> changes_of(const Config& config);

/// The config with all changes in it whose `from` is at most `step`. Throws ConfigError for a value that is
/// none of its key.
Config config_at(const Config& config, std::int64_t step);
/// The config with the rate keys set to `values`.
Config with_values(Config config, const std::map<std::string, std::string>& values);

/// The learning rate of every step of a run, its changes included. Throws ConfigError as Schedule does, with
/// the step from which a change holds. schedule.steps is resolved.
class RunSchedule {
 public:
  explicit RunSchedule(const Config& config);
  /// Of step s, counted from 0.
  double lr_at(std::int64_t step) const;

  /// Whether a change holds from this step on. Allocates nothing.
  bool changes_at(std::int64_t step) const;
  /// Steps of [begin, end) at which the rate is 0 because a cosine schedule is over.
  std::int64_t steps_at_zero(std::int64_t begin, std::int64_t end) const;
  /// Whether both give the same rate at every step of [begin, end).
  bool equals(const RunSchedule& other, std::int64_t begin, std::int64_t end) const;

 private:
  struct Part {
    std::int64_t from;
    Config::Schedule options;
    Schedule schedule;
  };
  std::vector<std::int64_t> corners() const;
  std::vector<Part> parts_;
};

/// What --resume asks of the learning rate: a value for each rate key that is to be another one than that
/// which the run, all its changes included, ends with. `wanted`: keys of flags and of a config file. Only
/// flags change a run; a file may say what the run began with or what holds now. Throws ConfigError where it
/// says something else, and where the new values do not go together.
std::map<std::string, std::string> wanted_rate_change(const ConfigValues& stored, const ConfigValues& wanted);

/// The list of changes with one more, of `values` from step `from` on. Changes at `from` and behind it become
/// part of it: what they had set and `values` does not holds from `from` on too.
std::vector<ScheduleChange> with_change(std::vector<ScheduleChange> changes, std::int64_t from,
                                        const std::map<std::string, std::string>& values);

/// Throws ConfigError where a key of `values` would change the rate of no step of [from, end).
void refuse_idle_change(const Config& config, std::int64_t from, std::int64_t end,
                        const std::map<std::string, std::string>& values);

/// What of the schedule has no effect on the steps [begin, end), each in one sentence. Throws ConfigError
/// where all of them would be taken at a rate of 0.
std::vector<std::string> schedule_remarks(const Config& config, std::int64_t begin, std::int64_t end);

}  // namespace lockstep
