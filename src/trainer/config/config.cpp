#include "trainer/config/config.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/text.h"
#include "model/graph/op_table.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_table.h"

namespace lockstep {

Config make_config(const ConfigValues& values) {
  Config config;
  for (const auto& [key, source] : values) {
    const ConfigBinding* binding = find_binding(key);
    if (binding == nullptr) throw ConfigError(fmt::format("unknown key \"{}\" ({})", key, source.origin));
    binding->set(binding->key, source.value, place_of(key, source.origin), config);
  }
  check_combinations(config, values);
  return config;
}

std::string resolved_ini(const Config& config) {
  std::string out = "# Every key of this run. Written by lockstep.\n";
  std::string section;
  for (const ConfigBinding& b : config_bindings()) {
    if (section_of(b.key.name) != section) {
      section = section_of(b.key.name);
      out += fmt::format("\n[{}]\n", section);
    }
    out += fmt::format("{} = {}\n", b.key.name.substr(section.size() + 1), b.get(config));
  }
  return out;
}

std::vector<std::string> placement_keys() {
  std::vector<std::string> keys;
  for (const ConfigBinding& b : config_bindings())
    if (b.key.placement) keys.push_back(b.key.name);
  return keys;
}

std::string without_keys(const std::string& resolved, const std::vector<std::string>& keys) {
  std::string out, section;
  for (const std::string_view line : split(resolved, '\n')) {
    if (line.starts_with('[')) section = line.substr(1, line.find(']') - 1);
    const std::string key = section + "." + std::string(trim(line.substr(0, line.find('='))));
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) out += std::string(line) + '\n';
  }
  return out;
}

std::vector<std::string> changed_keys(const Config& stored, const Config& wanted) {
  std::vector<std::string> changed;
  for (const ConfigBinding& b : config_bindings()) {
    if (b.key.placement || b.key.name == "train.epochs" || b.key.name == "train.steps" ||
        b.key.name == "schedule.changes")
      continue;
    if (b.get(stored) != b.get(wanted)) changed.push_back(b.key.name);
  }
  return changed;
}

LossOptions loss_options(const Config& config) {
  LossOptions options;
  options.label_smoothing = config.loss.label_smoothing;
  options.delta = config.loss.delta;
  if (config.loss.class_weights.empty()) return options;
  for (const std::string_view part : split(config.loss.class_weights, ',')) {
    const std::optional<double> weight = parse_double(trim(part));
    if (!weight || !(*weight >= 0) || std::isinf(*weight))
      throw ConfigError(
          fmt::format("loss.class_weights = {}: '{}' is not a number of at least 0: give one for each "
                      "class, joined by commas",
                      config.loss.class_weights, part));
    options.class_weights.push_back(static_cast<float>(*weight));
  }
  return options;
}

bool loss_takes_labels(const Config& config) {
  const OpEntry* loss = find_loss(config.loss.name);
  require(loss != nullptr, "the config names a loss");
  return loss->loss->answers == LossRule::Answers::labels;
}

}  // namespace lockstep
