#include "trainer/config/schedule_changes.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <limits>

#include "core/counted.h"
#include "core/error.h"
#include "core/text.h"
#include "trainer/config/config_table.h"

namespace lockstep {
namespace {

constexpr std::array rate_keys = {"optimizer.lr",   "schedule.name",   "schedule.warmup_steps",
                                  "schedule.steps", "schedule.min_lr", "schedule.milestones",
                                  "schedule.gamma"};
constexpr std::int64_t for_ever = std::numeric_limits<std::int64_t>::max();

std::string value_of(const Config& config, const std::string& key) {
  return find_binding(key)->get(config);
}

std::optional<ScheduleChange> parse_change(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == text.npos) return std::nullopt;
  const auto from = parse_int64(trim(text.substr(0, colon)));
  if (!from || *from < 0) return std::nullopt;
  ScheduleChange change{*from, {}};
  for (const std::string_view word : split(text.substr(colon + 1), ' ')) {
    if (trim(word).empty()) continue;
    const std::size_t equals = word.find('=');
    if (equals == word.npos) return std::nullopt;
    const std::string key(trim(word.substr(0, equals)));
    if (!is_rate_key(key)) return std::nullopt;
    if (!change.values.emplace(key, trim(word.substr(equals + 1))).second) return std::nullopt;
  }
  if (change.values.empty()) return std::nullopt;
  return change;
}

/// Whether `key` is an option of schedules, but not of the one of this name.
bool is_set_back(const std::string& name, const std::string& key) {
  if (key == "schedule.min_lr") return name != "cosine";
  return (key == "schedule.milestones" || key == "schedule.gamma") && name != "step";
}

/// Where a schedule has another name, what only the old one has goes back to its default, unless it is given:
/// left behind, it would be an option without effect.
void drop_old_options(const Config& now, std::map<std::string, std::string>& values) {
  const auto name = values.find("schedule.name");
  if (name == values.end()) return;
  for (const char* key : rate_keys) {
    const std::string& normal = find_binding(key)->key.default_text;
    if (is_set_back(name->second, key) && value_of(now, key) != normal) values.emplace(key, normal);
  }
}

}  // namespace

bool is_rate_key(const std::string& key) {
  return std::find(rate_keys.begin(), rate_keys.end(), key) != rate_keys.end();
}

std::optional<std::vector<ScheduleChange>> parse_changes(std::string_view text) {
  std::vector<ScheduleChange> changes;
  if (trim(text).empty()) return changes;
  for (const std::string_view part : split(text, ';')) {
    auto change = parse_change(part);
    if (!change || (!changes.empty() && change->from <= changes.back().from)) return std::nullopt;
    changes.push_back(std::move(*change));
  }
  return changes;
}

std::string changes_text(const std::vector<ScheduleChange>& changes) {
  std::string text;
  for (const ScheduleChange& change : changes) {
    text += fmt::format("{}{}:", text.empty() ? "" : "; ", change.from);
    for (const auto& [key, value] : change.values) {
      std::string dense = value;  // a blank would end the value
      std::erase(dense, ' ');
      text += fmt::format(" {}={}", key, dense);
    }
  }
  return text;
}

std::vector<ScheduleChange> changes_of(const Config& config) {
  auto changes = parse_changes(config.schedule.changes);
  require(changes.has_value(), "schedule.changes was checked when it was read");
  return std::move(*changes);
}

Config with_values(Config config, const std::map<std::string, std::string>& values) {
  for (const auto& [key, value] : values) {
    const ConfigBinding& binding = *find_binding(key);
    binding.set(binding.key, value, key, config);
  }
  return config;
}

Config config_at(const Config& config, std::int64_t step) {
  Config at = config;
  for (const ScheduleChange& change : changes_of(config)) {
    if (change.from > step) break;
    try {
      at = with_values(std::move(at), change.values);
    } catch (const ConfigError& e) {
      throw ConfigError(fmt::format("schedule.changes: from step {} on: {}", change.from, e.what()));
    }
  }
  return at;
}

RunSchedule::RunSchedule(const Config& config) {
  parts_.push_back({0, config.schedule, Schedule(config.schedule, config.optimizer.lr)});
  for (const ScheduleChange& change : changes_of(config)) {
    const Config at = config_at(config, change.from);
    try {
      parts_.push_back({change.from, at.schedule, Schedule(at.schedule, at.optimizer.lr)});
    } catch (const ConfigError& e) {
      throw ConfigError(fmt::format("schedule.changes: from step {} on: {}", change.from, e.what()));
    }
  }
}

double RunSchedule::lr_at(std::int64_t step) const {
  std::size_t part = parts_.size() - 1;
  while (part > 0 && parts_[part].from > step) --part;
  return parts_[part].schedule.lr_at(step);
}

bool RunSchedule::changes_at(std::int64_t step) const {
  return std::any_of(parts_.begin() + 1, parts_.end(), [&](const Part& part) { return part.from == step; });
}

std::int64_t RunSchedule::steps_at_zero(std::int64_t begin, std::int64_t end) const {
  std::int64_t count = 0;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const Config::Schedule& s = parts_[i].options;
    if (s.name != "cosine" || s.min_lr != 0) continue;
    const std::int64_t first = std::max({begin, parts_[i].from, s.steps});
    const std::int64_t last = i + 1 < parts_.size() ? std::min(end, parts_[i + 1].from) : end;
    count += std::max<std::int64_t>(0, last - first);
  }
  return count;
}

std::vector<std::int64_t> RunSchedule::corners() const {
  std::vector<std::int64_t> steps;
  for (const Part& part : parts_) {
    steps.insert(steps.end(), {part.from, part.options.warmup_steps, part.options.steps});
    if (const auto milestones = parse_steps(part.options.milestones))
      steps.insert(steps.end(), milestones->begin(), milestones->end());
  }
  return steps;
}

bool RunSchedule::equals(const RunSchedule& other, std::int64_t begin, std::int64_t end) const {
  // Between two corners either rate is a constant, a line or one arc of a cosine. Two of these that agree at
  // many points agree everywhere.
  constexpr std::int64_t points = 16;
  std::vector<std::int64_t> edges = corners();
  const std::vector<std::int64_t> more = other.corners();
  edges.insert(edges.end(), more.begin(), more.end());
  edges.insert(edges.end(), {begin, end});
  for (std::int64_t& edge : edges) edge = std::clamp(edge, begin, end);
  std::sort(edges.begin(), edges.end());
  for (std::size_t i = 0; i + 1 < edges.size(); ++i) {
    const std::int64_t length = edges[i + 1] - edges[i];
    for (std::int64_t p = 0; p < std::min(points, length); ++p) {
      const std::int64_t step = edges[i] + (length <= points ? p : length / points * p);
      if (lr_at(step) != other.lr_at(step)) return false;
    }
  }
  return true;
}

std::map<std::string, std::string> wanted_rate_change(const ConfigValues& stored,
                                                      const ConfigValues& wanted) {
  const Config began = make_config(stored);
  const Config now = config_at(began, for_ever);
  std::map<std::string, std::string> change;
  ConfigValues combined = stored;
  combined.erase("schedule.changes");
  for (const char* key : rate_keys) combined[key] = {value_of(now, key), "of the run"};
  for (const auto& [key, source] : wanted) {
    if (key == "schedule.changes") {
      const auto listed = parse_changes(source.value);
      const std::vector<ScheduleChange> held = changes_of(began);
      if (!listed || listed->size() > held.size() ||
          !std::equal(listed->begin(), listed->end(), held.begin()))
        throw ConfigError(fmt::format(
            "{}: --resume changes the learning rate by flags such as --optimizer.lr, from the newest "
            "checkpoint on; leave schedule.changes out",
            place_of(key, source.origin)));
      continue;
    }
    if (!is_rate_key(key)) continue;
    const std::string value = value_of(with_values(now, {{key, source.value}}), key);
    if (value == value_of(now, key)) continue;
    if (source.origin.starts_with("--")) {
      change[key] = value;
      combined[key] = source;
      continue;
    }
    // In a file 0 is the horizon that the run has found for itself.
    if (value == value_of(began, key) || (key == "schedule.steps" && value == "0")) continue;
    throw ConfigError(
        fmt::format("{}: {} is \"{}\", and the run has \"{}\"; a file changes no run: to change it from the "
                    "newest checkpoint on, give --{} {}",
                    source.origin, key, value, value_of(now, key), key, value));
  }
  if (change.empty()) return change;
  drop_old_options(now, change);
  for (const auto& [key, value] : change)
    if (combined[key].origin == "of the run") combined[key].value = value;
  // Zero is resolved when the data is known. And only a cosine has a horizon: what the run has found or kept
  // for another schedule binds no warm-up.
  const auto steps = change.find("schedule.steps");
  const bool zero = steps != change.end() && steps->second == "0";
  if (zero || combined["schedule.name"].value != "cosine") combined.erase("schedule.steps");
  (void)make_config(combined);
  return change;
}

std::vector<ScheduleChange> with_change(std::vector<ScheduleChange> changes, std::int64_t from,
                                        const std::map<std::string, std::string>& values) {
  // The new values are meant on top of all that was changed before, also of what lies ahead when a run goes
  // on from an older checkpoint.
  ScheduleChange change{from, {}};
  for (const ScheduleChange& later : changes) {
    if (later.from < from) continue;
    for (const auto& [key, value] : later.values) change.values[key] = value;
  }
  for (const auto& [key, value] : values) change.values[key] = value;
  std::erase_if(changes, [&](const ScheduleChange& c) { return c.from >= from; });
  changes.push_back(std::move(change));
  return changes;
}

void refuse_idle_change(const Config& config, std::int64_t from, std::int64_t end,
                        const std::map<std::string, std::string>& values) {
  if (from >= end)
    throw ConfigError(
        fmt::format("--{}: it would have no effect: the run has taken {} and ends at step {}; give a "
                    "higher train.epochs or train.steps too",
                    values.begin()->first, counted(from, "step"), end));
  const auto schedule_with = [&](const std::map<std::string, std::string>& some) {
    Config changed = config;
    if (!some.empty()) changed.schedule.changes = changes_text(with_change(changes_of(config), from, some));
    return RunSchedule(changed);
  };
  const RunSchedule all = schedule_with(values);
  for (const auto& [key, value] : values) {
    std::map<std::string, std::string> others = values;
    others.erase(key);
    bool idle = false;
    try {
      idle = all.equals(schedule_with(others), from, end);
    } catch (const ConfigError&) {
      // Without this value the others make no schedule.
    }
    if (idle && !(values.count("schedule.name") != 0 && is_set_back(values.at("schedule.name"), key)))
      throw ConfigError(
          fmt::format("--{} {}: it would change the learning rate of no step from {} to {}: leave it out, or "
                      "give a value that reaches into these steps",
                      key, value, from + 1, end));
  }
}

namespace {

/// Whether all rates up to `end` are the same without this change. `schedule`: that of `config`.
bool is_idle(const Config& config, const RunSchedule& schedule, const ScheduleChange& change,
             std::int64_t end) {
  std::vector<ScheduleChange> others = changes_of(config);
  std::erase(others, change);
  Config without = config;
  without.schedule.changes = changes_text(others);
  try {
    return RunSchedule(without).equals(schedule, change.from, end);
  } catch (const ConfigError&) {
    return false;  // a later change needs this one
  }
}

}  // namespace

std::vector<std::string> schedule_remarks(const Config& config, std::int64_t begin, std::int64_t end) {
  std::vector<std::string> remarks;
  if (begin >= end) return remarks;
  const RunSchedule schedule(config);
  const Config last = config_at(config, end - 1);
  const Config::Schedule& s = last.schedule;
  const std::int64_t zeros = schedule.steps_at_zero(begin, end);
  if (zeros == end - begin)
    throw ConfigError(
        fmt::format("schedule.steps: the cosine schedule has ended at step {}, and the steps {} to {} would "
                    "be taken at a learning rate of 0; give --schedule.steps {} to stretch it, or "
                    "--schedule.name constant and --optimizer.lr",
                    s.steps, begin + 1, end, end));
  if (zeros > 0)
    remarks.push_back(fmt::format(
        "{} of the steps {} to {} {} taken at a learning rate of 0, as a cosine schedule ends before them "
        "(schedule.steps is {}, and the run ends at step {})",
        zeros, begin + 1, end, zeros == 1 ? "is" : "are", s.steps, end));
  if (s.name == "cosine" && s.min_lr > 0 && begin >= s.steps)
    remarks.push_back(fmt::format(
        "the cosine schedule has ended at step {} (schedule.steps): all steps from {} on are taken at "
        "schedule.min_lr = {}",
        s.steps, begin + 1, s.min_lr));
  if (last.optimizer.lr == 0) remarks.push_back("optimizer.lr is 0: no weight will change");
  if (s.warmup_steps > end)
    remarks.push_back(fmt::format(
        "the run ends at step {}, within the warm-up of {} steps (schedule.warmup_steps): the learning rate "
        "comes to {:.3g} of optimizer.lr = {}",
        end, s.warmup_steps, schedule.lr_at(end - 1), last.optimizer.lr));
  if (s.name == "cosine" && s.min_lr == last.optimizer.lr && s.min_lr > 0)
    remarks.push_back("schedule.min_lr is optimizer.lr: the cosine schedule stays at one value");
  if (s.name == "step") {
    if (s.gamma == 1) remarks.push_back("schedule.gamma is 1: schedule.milestones have no effect");
    std::vector<std::int64_t> beyond;
    for (const std::int64_t milestone : parse_steps(s.milestones).value_or(std::vector<std::int64_t>()))
      if (milestone >= end) beyond.push_back(milestone);
    if (!beyond.empty())
      remarks.push_back(fmt::format("schedule.milestones: the run ends at step {}, before {}: {} no effect",
                                    end, fmt::join(beyond, ", "),
                                    beyond.size() == 1 ? "that one has" : "these have"));
  }
  for (const ScheduleChange& change : changes_of(config)) {
    if (change.from >= end)
      remarks.push_back(fmt::format(
          "schedule.changes: the run ends at step {}, before the change of step {}, which has no effect", end,
          change.from));
    else if (change.from >= begin && is_idle(config, schedule, change, end))
      remarks.push_back(
          fmt::format("schedule.changes: the change of step {} alters the learning rate of no step up to {}",
                      change.from, end));
  }
  return remarks;
}

}  // namespace lockstep
