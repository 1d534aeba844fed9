#include "trainer/config/config_checks.h"

#include <algorithm>
#include <fmt/format.h>
#include <string>

#include "core/error.h"
#include "model/graph/op_table.h"
#include "optim/groups.h"
#include "optim/rules/table.h"
#include "trainer/config/config_table.h"
#include "trainer/config/schedule_changes.h"

namespace lockstep {
namespace {

class Checks {
 public:
  Checks(const Config& config, const ConfigValues& values) : c(config), values_(values) {}

  void model() const {
    if (c.model.name.empty() && c.model.layers.empty()) {
      throw ConfigError(
          "there is no model: give model.layers, a line of layers, or model.name, a model of the zoo");
    }
    if (!c.model.name.empty() && !c.model.layers.empty()) {
      throw ConfigError(fmt::format("{} and {} are both given: a model is one or the other", at("model.name"),
                                    at("model.layers")));
    }
    if (c.model.name.empty() || c.model.name == custom_model) {
      for (const auto& [option, value] : c.model.options) {
        no_effect("model." + option, c.model.name.empty()
                                         ? "it is an option of zoo models, and model.layers is given"
                                         : "it is an option of zoo models, and model.name is custom");
      }
    }
  }

  void data() const {
    const Config::Data& d = c.data;
    const bool synthetic = d.format == "synthetic";
    for (const char* key : {"data.train", "data.test", "data.validation"}) {
      if (synthetic) unless_default(key, "data.format is synthetic, which reads no file");
    }
    for (const char* key : {"data.train_labels", "data.test_labels", "data.validation_labels"}) {
      if (d.format != "idx")
        unless_default(key, "labels lie in a file of their own only with data.format = idx");
    }
    if (d.format != "csv") {
      unless_default("data.label", "only data.format = csv has label columns");
      for (const char* key : {"data.drop", "data.header", "data.delimiter"})
        unless_default(key, "only data.format = csv has columns");
    }
    if (d.format != "idx") unless_default("data.layout", "it is for data.format = idx");
    if (!synthetic)
      unless_default("data.samples", "it is for data.format = synthetic; data.limit shortens a file");
    if (!synthetic && d.train.empty())
      throw ConfigError("data.train is missing: give the file with the training data");
    if (synthetic && d.samples == 0)
      throw ConfigError("data.samples is missing: say how many synthetic samples to make");
    if (synthetic && d.shape.empty())
      throw ConfigError("data.shape is missing: give the shape of a synthetic sample, e.g. 1x28x28");
    if (synthetic && loss_takes_labels(c) && d.classes == 0) {
      throw ConfigError("data.classes is missing: give the number of classes of the synthetic data");
    }
    if (d.test.empty()) unless_default("data.test_labels", "data.test is not given");
    if (d.validation.empty()) unless_default("data.validation_labels", "data.validation is not given");
    if (!d.test.empty())
      unless_default("data.test_fraction",
                     "data.test is given; to use that file, add --data.test_fraction 0");
    if (!d.validation.empty())
      unless_default("data.validation_fraction",
                     "data.validation is given; to use that file, add --data.validation_fraction 0");
    if (d.test_fraction + d.validation_fraction >= 1) {
      throw ConfigError(fmt::format("{} and {} leave nothing to train on: their sum must be below 1",
                                    at("data.validation_fraction"), at("data.test_fraction")));
    }
  }

  void loss() const {
    const std::vector<std::string>& taken = find_loss(c.loss.name)->loss->options;
    for (const char* option : {"label_smoothing", "class_weights", "delta"})
      if (std::find(taken.begin(), taken.end(), option) == taken.end())
        unless_default(std::string("loss.") + option, fmt::format("loss.name = {} takes none", c.loss.name));
    (void)loss_options(c);
    if (!loss_takes_labels(c)) {
      unless_default("data.classes", fmt::format("loss.name = {} has no classes", c.loss.name));
      if (c.train.best == "accuracy")
        throw ConfigError(
            fmt::format("{}: loss.name = {} has no accuracy: use loss", at("train.best"), c.loss.name));
      return;
    }
    unless_default("data.scale_targets", "loss.name is " + c.loss.name + ", which has no targets");
    if (c.data.label.find(',') != std::string::npos) {
      throw ConfigError(
          fmt::format("{} names several columns, but {} takes one class label per sample: "
                      "name one, or use loss.name = mse",
                      at("data.label"), c.loss.name));
    }
  }

  void train() const {
    const Config::Train& t = c.train;
    if (t.epochs == 0 && t.steps == 0) {
      throw ConfigError("train.epochs and train.steps are both 0: say when the training ends");
    }
    if (t.slices > 0 && t.global_batch % t.slices != 0) {
      throw ConfigError(fmt::format("{} does not divide {}: slices are equal parts of a batch",
                                    at("train.slices"), at("train.global_batch")));
    }
    if (t.precision != "fp32" && t.precision != "bf16" && c.device.kind == "cpu") {
      throw ConfigError(
          fmt::format("{}: the CPU computes in fp32 and bf16 only: use one of them, or a GPU (--device cuda)",
                      at("train.precision")));
    }
  }

  void device() const {
    if (!c.device.autotune) unless_default("device.plan_cache", "device.autotune is false");
    if (c.device.kind != "cpu") return;
    for (const char* key : {"device.deterministic", "device.graph", "device.fuse", "device.workspace_mb",
                            "device.autotune", "device.share", "comm.backend"})
      unless_default(key, "device.kind is cpu, and it is for GPUs");
  }

  void optimizer() const {
    const Config::Optimizer& o = c.optimizer;
    constexpr std::pair<const char*, rules::Key> keys[] = {
        {"optimizer.momentum", rules::key_momentum}, {"optimizer.nesterov", rules::key_nesterov},
        {"optimizer.beta1", rules::key_beta1},       {"optimizer.beta2", rules::key_beta2},
        {"optimizer.epsilon", rules::key_epsilon},   {"optimizer.trust", rules::key_trust}};
    for (const auto& [key, read] : keys) {
      if (rule_reads(o.name, read)) continue;
      const bool betas = read == rules::key_momentum && rule_reads(o.name, rules::key_beta1);
      unless_default(key,
                     betas ? fmt::format("{} has optimizer.beta1 instead", o.name)
                           : fmt::format("it is for {}, and optimizer.name is {}", rules_with(read), o.name));
    }
    if (o.nesterov && o.momentum == 0)
      throw ConfigError(fmt::format("{} needs optimizer.momentum above 0", at("optimizer.nesterov")));
  }

  void decay() const {
    const Config::Optimizer& o = c.optimizer;
    const bool norms = rule_needs_norms(o.name);
    if (o.weight_decay == 0 && o.groups.empty() && !norms)
      unless_default("optimizer.decay_norms", "optimizer.weight_decay is 0");
    for (const ParameterGroup& group : parse_groups(o.groups))
      if (!group.adapts && !norms)
        throw ConfigError(
            fmt::format("{}: adapt=no would have no effect: optimizer.name = {} adapts no rate "
                        "to norms",
                        at("optimizer.groups"), o.name));
  }

  void schedule() const {
    const Config::Schedule& s = c.schedule;
    if (s.name != "cosine") {
      unless_default("schedule.min_lr", "schedule.name is " + s.name);
    }
    if (s.name != "step") {
      unless_default("schedule.milestones", "schedule.name is " + s.name);
      unless_default("schedule.gamma", "schedule.name is " + s.name);
    } else if (s.milestones.empty()) {
      throw ConfigError(
          "schedule.milestones is missing: schedule.name = step needs the steps at which the rate falls");
    }
    if (s.min_lr > c.optimizer.lr) {
      throw ConfigError(
          fmt::format("{} is above {}: cosine goes down", at("schedule.min_lr"), at("optimizer.lr")));
    }
    if (s.steps > 0 && s.warmup_steps > s.steps) {
      throw ConfigError(fmt::format("{} is above {}: warm-up ends before the horizon",
                                    at("schedule.warmup_steps"), at("schedule.steps")));
    }
  }

  /// Every change makes a schedule that could have stood there from the beginning.
  void changes() const {
    for (const ScheduleChange& change : changes_of(c)) {
      Config at_change = config_at(c, change.from);
      // Only a cosine has a horizon. What another schedule has is left from before, or was found by the run.
      if (at_change.schedule.name != "cosine") at_change.schedule.steps = 0;
      try {
        Checks(at_change, {}).schedule();
      } catch (const ConfigError& e) {
        throw ConfigError(fmt::format("schedule.changes: from step {} on: {}", change.from, e.what()));
      }
    }
  }

  void guard() const {
    const Config::Guard& g = c.guard;
    if (g.spike == "off") {
      for (const char* key : {"guard.spike_factor", "guard.spike_window"})
        unless_default(key, "guard.spike is off");
    }
    if (g.nonfinite == "stop" && (g.spike == "off" || g.spike == "stop"))
      unless_default("guard.limit", "no batch is skipped while guard.nonfinite and guard.spike stop the run");
    if (c.check.replicas_every == 0) unless_default("check.replicas", "check.replicas_every is 0");
  }

 private:
  /// "train.slices = 5 (configs/a.ini:7)"
  std::string at(const std::string& key) const {
    const auto given = values_.find(key);
    const std::string text = key + " = " + find_binding(key)->get(c);
    return given == values_.end() || given->second.origin.empty()
               ? text
               : fmt::format("{} ({})", text, given->second.origin);
  }
  [[noreturn]] void no_effect(const std::string& key, const std::string& why) const {
    throw ConfigError(fmt::format("{} would have no effect: {}", at(key), why));
  }
  void unless_default(const std::string& key, const std::string& why) const {
    const ConfigBinding* binding = find_binding(key);
    if (binding->get(c) != binding->key.default_text) no_effect(key, why);
  }

  const Config& c;
  const ConfigValues& values_;
};

}  // namespace

void check_combinations(const Config& config, const ConfigValues& values) {
  const Checks checks(config, values);
  checks.model();
  checks.data();
  checks.loss();
  checks.train();
  checks.device();
  checks.optimizer();
  checks.decay();
  checks.schedule();
  checks.changes();
  checks.guard();
}

void resolve_eval_batch(Config& config) {
  Config::Train& t = config.train;
  if (t.eval_batch == 0) t.eval_batch = t.global_batch;
  if (t.slices < 1 || t.eval_batch % t.slices != 0)
    throw ConfigError(fmt::format("train.eval_batch: {} is not divisible by train.slices, which is {}",
                                  t.eval_batch, t.slices));
}

}  // namespace lockstep
