#include "trainer/config_table.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <fmt/format.h>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "core/utf8.h"
#include "model/zoo.h"
#include "trainer/data/csv_text.h"
#include "trainer/run/schedule_changes.h"
#include "trainer/schedule.h"

namespace lockstep {
namespace {

// ---- Between text and values ----

std::string to_text(const std::string& v) {
  return v;
}
std::string to_text(bool v) {
  return v ? "true" : "false";
}
std::string to_text(double v) {
  char buffer[32];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, v).ptr;  // the shortest text that reads back to v
  return {buffer, end};
}
template <class Integer>
std::string to_text(Integer v) {
  return std::to_string(v);
}

std::string range_text(const ConfigKey& key) {
  const bool above = key.low > -1e300;
  const bool below = key.high < 1e300;
  const std::string low = fmt::format("{} {}", key.low_open ? "above" : "at least", to_text(key.low));
  // 2^64 - 1 is no double.
  const std::string most =
      key.high < 0x1p64 ? to_text(key.high) : to_text(std::numeric_limits<std::uint64_t>::max());
  const std::string high = fmt::format("{} {}", key.high_open ? "below" : "at most", most);
  return above && below ? low + " and " + high : (above ? low : high);
}

void check_range(const ConfigKey& key, double v, const std::string& text, const std::string& where) {
  const bool low = key.low_open ? v > key.low : v >= key.low;
  const bool high = key.high_open ? v < key.high : v <= key.high;
  if (!low || !high)
    throw ConfigError(fmt::format("{}: {} is out of range: give {}", where, text, range_text(key)));
}

void from_text(const ConfigKey& key, const std::string& text, const std::string& where, std::string& out) {
  for (const char c : text) {
    if (c == '#' || static_cast<unsigned char>(c) < 0x20) {
      throw ConfigError(fmt::format("{}: a value cannot hold {}, which config files cannot express", where,
                                    c == '#' ? "'#'" : "control characters"));
    }
  }
  // Checkpoints hold the config as JSON: bytes that it cannot express would cost every one of them.
  if (!is_utf8(text)) {
    throw ConfigError(fmt::format(
        "{}: the value is not UTF-8 text: save the config file as UTF-8, and rename a file whose name is not",
        where));
  }
  if (key.kind == ConfigKey::Kind::choice && !(text.empty() && key.default_text.empty()) &&
      std::find(key.choices.begin(), key.choices.end(), text) == key.choices.end()) {
    const auto near = nearest_word(text, key.choices);
    throw ConfigError(fmt::format("{}: \"{}\" is not one of {}{}", where, text, fmt::join(key.choices, ", "),
                                  near ? ": did you mean \"" + *near + "\"?" : ""));
  }
  out = std::string(trim(text));
}

void from_text(const ConfigKey&, const std::string& text, const std::string& where, bool& out) {
  const auto v = parse_bool(text);
  if (!v) throw ConfigError(fmt::format("{}: \"{}\" is neither true nor false", where, text));
  out = *v;
}

void from_text(const ConfigKey& key, const std::string& text, const std::string& where, double& out) {
  const DecimalText v = read_decimal(text);
  if (v.kind == DecimalText::Kind::no_number)
    throw ConfigError(fmt::format("{}: \"{}\" is not a finite decimal number such as 0.01", where, text));
  // Taken as 0 it could switch off what it was meant to set.
  if (v.kind == DecimalText::Kind::too_small)
    throw ConfigError(fmt::format(
        "{}: {} is too small for a number of 64 bits, whose least is 4.9e-324: write 0 if that is meant",
        where, text));
  check_range(key, v.value, text, where);
  out = v.value;
}

template <class Integer>
void from_text(const ConfigKey& key, const std::string& text, const std::string& where, Integer& out) {
  Integer v = 0;
  const char* end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, v);
  if (read.ec == std::errc{} && read.ptr == end) {
    check_range(key, static_cast<double>(v), text, where);
    out = v;
    return;
  }
  if (read.ec == std::errc::result_out_of_range && read.ptr == end)
    throw ConfigError(fmt::format("{}: {} is out of range: give {}", where, text, range_text(key)));
  const DecimalText real = read_decimal(text);
  const bool whole = real.kind == DecimalText::Kind::number && real.value == std::floor(real.value);
  if (whole || real.kind == DecimalText::Kind::too_large) {
    check_range(key, real.value, text, where);  // "-1" for what is unsigned
    throw ConfigError(
        fmt::format("{}: write the whole number {:.0f} without point or exponent", where, real.value));
  }
  throw ConfigError(fmt::format("{}: \"{}\" is not a whole number", where, text));
}

template <class T>
constexpr ConfigKey::Kind kind_of() {
  if constexpr (std::is_same_v<T, std::string>) return ConfigKey::Kind::text;
  if constexpr (std::is_same_v<T, bool>) return ConfigKey::Kind::boolean;
  if constexpr (std::is_same_v<T, double>) return ConfigKey::Kind::real;
  return ConfigKey::Kind::integer;
}

// ---- Building rows ----

struct Row : ConfigBinding {
  Row&& between(double low, double high) && {
    key.low = low;
    key.high = high;
    return std::move(*this);
  }
  Row&& above(double low) && {
    key.low = low;
    key.low_open = true;
    return std::move(*this);
  }
  Row&& below(double high) && {
    key.high = high;
    key.high_open = true;
    return std::move(*this);
  }
  Row&& one_of(std::vector<std::string> choices) && {
    key.kind = ConfigKey::Kind::choice;
    key.choices = std::move(choices);
    return std::move(*this);
  }
  Row&& placement() && {
    key.placement = true;
    return std::move(*this);
  }
  /// A blank or a tab would be lost between config file and value.
  Row&& delimiter() && {
    set = [inner = std::move(set)](const ConfigKey& k, const std::string& text, const std::string& where,
                                   Config& config) {
      if (!parse_delimiter(trim(text)))
        throw ConfigError(
            fmt::format("{}: \"{}\" is not one of , ; | : tab, space: write a blank or a tab as "
                        "its name",
                        where, printable(text)));
      inner(k, text, where, config);
    };
    return std::move(*this);
  }
  /// Text that is not empty must please `good`, else it "is not <what>".
  Row&& such_as(bool (*good)(std::string_view), const char* what) && {
    set = [inner = std::move(set), good, what](const ConfigKey& k, const std::string& text,
                                               const std::string& where, Config& config) {
      if (!trim(text).empty() && !good(trim(text))) {
        throw ConfigError(fmt::format("{}: \"{}\" is not {}", where, text, what));
      }
      inner(k, text, where, config);
    };
    return std::move(*this);
  }
};

template <class Group, class T>
Row row(const char* name, Group Config::*group, T Group::*member, const char* help) {
  Row r;
  r.key.name = name;
  r.key.kind = kind_of<T>();
  r.key.help = help;
  r.key.low = kind_of<T>() == ConfigKey::Kind::integer ? 0 : -1e308;
  r.key.high = std::is_same_v<T, int> ? 2147483647.0 : (std::is_same_v<T, double> ? 1e308 : 1e15);
  r.get = [=](const Config& c) { return to_text(c.*group.*member); };
  r.set = [=](const ConfigKey& key, const std::string& text, const std::string& where, Config& c) {
    from_text(key, text, where, c.*group.*member);
  };
  return r;
}

/// An option of the zoo's models: kept as text, left out when empty. The zoo checks its value.
Row zoo_option(const std::string& name, const std::string& help) {
  Row r;
  r.key.name = "model." + name;
  r.key.help = help;
  r.get = [name](const Config& c) {
    const auto found = c.model.options.find(name);
    return found == c.model.options.end() ? std::string() : found->second;
  };
  r.set = [name](const ConfigKey& key, const std::string& text, const std::string& where, Config& c) {
    std::string value;
    from_text(key, text, where, value);
    if (value.empty()) {
      c.model.options.erase(name);
    } else {
      c.model.options[name] = value;
    }
  };
  return r;
}

/// Rows of all options of the zoo, an option that several models have once.
std::vector<Row> zoo_options() {
  std::vector<Row> rows;
  for (const ZooEntry& model : zoo_entries()) {
    for (const ZooOption& option : model.options) {
      const auto same = std::find_if(rows.begin(), rows.end(),
                                     [&](const Row& r) { return r.key.name == "model." + option.name; });
      const std::string help =
          fmt::format("{}: {} (default {})", model.name, option.help, option.default_text);
      if (same == rows.end()) {
        rows.push_back(zoo_option(option.name, help));
      } else {
        same->key.help += "; " + help;
      }
    }
  }
  return rows;
}

bool is_shape(std::string_view text) {
  const auto fields = split(text, 'x');
  return fields.size() <= 3 && std::all_of(fields.begin(), fields.end(), [](std::string_view f) {
           const auto v = parse_int64(f);
           return v && *v >= 1 && *v <= 1'000'000'000;
         });
}

bool is_step_list(std::string_view text) {
  return parse_steps(std::string(text)).has_value();
}

bool is_change_list(std::string_view text) {
  return parse_changes(text).has_value();
}

using C = Config;
constexpr double most_samples = 1e12;

void add_model_and_data(std::vector<ConfigBinding>& t) {
  const auto run = &C::run;
  t.push_back(row("run.dir", run, &C::Run::dir, "run directory (default: runs/ and the config file's name)")
                  .placement());
  t.push_back(
      row("run.seed", run, &C::Run::seed, "seed of every random number").between(0, 18446744073709551615.0));

  const auto model = &C::model;
  std::vector<std::string> zoo;
  for (const ZooEntry& entry : zoo_entries()) zoo.push_back(entry.name);
  zoo.emplace_back(custom_model);
  t.push_back(
      row("model.name", model, &C::Model::name, "a model of the zoo, or custom: what a C++ program builds")
          .one_of(zoo));
  t.push_back(row("model.layers", model, &C::Model::layers,
                  "one line of layers: conv:32x3 relu maxpool:2 flatten dense:10"));
  for (Row& option : zoo_options()) t.push_back(std::move(option));
  t.push_back(
      row("loss.name", &C::loss, &C::Loss::name, "what is minimised").one_of({"cross_entropy", "mse"}));

  const auto data = &C::data;
  t.push_back(row("data.format", data, &C::Data::format, "kind of the data files")
                  .one_of({"idx", "csv", "synthetic"}));
  t.push_back(row("data.train", data, &C::Data::train, "training data: CSV file, or IDX images").placement());
  t.push_back(row("data.train_labels", data, &C::Data::train_labels,
                  "IDX labels (default: beside the images, by name)")
                  .placement());
  t.push_back(row("data.test", data, &C::Data::test, "test data").placement());
  t.push_back(
      row("data.test_labels", data, &C::Data::test_labels, "IDX labels of the test data").placement());
  t.push_back(row("data.validation", data, &C::Data::validation, "validation data").placement());
  t.push_back(
      row("data.validation_labels", data, &C::Data::validation_labels, "IDX labels of the validation data")
          .placement());
  t.push_back(row("data.label", data, &C::Data::label,
                  "CSV: label column(s) by name or 0-based index, comma separated (default: the last)"));
  t.push_back(row("data.drop", data, &C::Data::drop,
                  "CSV: columns to leave out, by name or 0-based index, comma separated"));
  t.push_back(row("data.header", data, &C::Data::header,
                  "CSV: whether the first line names the columns (auto: where its content shows it)")
                  .one_of({"auto", "yes", "no"}));
  t.push_back(row("data.delimiter", data, &C::Data::delimiter,
                  "CSV: what separates fields: , ; | : or tab, or space for any run of blanks")
                  .delimiter());
  t.push_back(row("data.layout", data, &C::Data::layout,
                  "IDX images of 3 axes: chw (channels first), hwc (channels last), auto: chw if clear")
                  .one_of({"auto", "chw", "hwc"}));
  t.push_back(row("data.validation_fraction", data, &C::Data::validation_fraction,
                  "part of the training file that is kept for validation")
                  .between(0, 1)
                  .below(1));
  t.push_back(row("data.test_fraction", data, &C::Data::test_fraction,
                  "part of the training file that is kept for the test")
                  .between(0, 1)
                  .below(1));
  t.push_back(row("data.normalize", data, &C::Data::normalize,
                  "inputs: unit is x/255, standard is (x - mean) / deviation of the training split")
                  .one_of({"auto", "none", "unit", "standard"}));
  t.push_back(row("data.scale_targets", data, &C::Data::scale_targets,
                  "mse: standard learns (target - mean) / deviation of the training split; predictions are "
                  "in the units of the data all the same")
                  .one_of({"none", "standard"}));
  t.push_back(
      row("data.shape", data, &C::Data::shape, "shape of a sample, e.g. 1x28x28 (CSV images, synthetic)")
          .such_as(is_shape, "a shape such as 1x28x28"));
  t.push_back(row("data.classes", data, &C::Data::classes, "number of classes (0: the largest label + 1)")
                  .between(0, 1e8));
  t.push_back(
      row("data.samples", data, &C::Data::samples, "synthetic: samples to make").between(0, most_samples));
  t.push_back(row("data.workers", data, &C::Data::workers, "loader threads per rank; 0: load within the step")
                  .between(0, 256)
                  .placement());
  t.push_back(row("data.limit", data, &C::Data::limit, "use only so many training samples (0: all)")
                  .between(0, most_samples));
  t.push_back(row("data.flip", data, &C::Data::flip,
                  "training images: mirror each left to right with probability 1/2, anew in every epoch"));
  t.push_back(row("data.crop_padding", data, &C::Data::crop_padding,
                  "training images: crop each at random out of itself and so many pixels around (0: do not)")
                  .between(0, 65535));
}

void add_training(std::vector<ConfigBinding>& t) {
  const auto train = &C::train;
  t.push_back(
      row("train.epochs", train, &C::Train::epochs, "passes over the training data (0: until train.steps)")
          .between(0, 1e9));
  t.push_back(row("train.steps", train, &C::Train::steps, "upper bound of steps (0: none)"));
  t.push_back(
      row("train.global_batch", train, &C::Train::global_batch, "samples per step, all ranks together")
          .between(1, 1e9));
  t.push_back(
      row("train.slices", train, &C::Train::slices, "equal parts of a batch; must divide it (0: chosen)")
          .between(0, 1e6));
  t.push_back(row("train.reduction", train, &C::Train::reduction,
                  "ordered: the same bits at any placement; fast: the library's sum")
                  .one_of({"ordered", "fast"}));
  t.push_back(row("train.bucket_mb", train, &C::Train::bucket_mb, "megabytes of gradient exchanged at once")
                  .between(0, 1e6)
                  .above(0)
                  .placement());
  t.push_back(row("train.overlap", train, &C::Train::overlap, "exchange gradients during the backward pass")
                  .placement());
  t.push_back(row("train.precision", train, &C::Train::precision, "number format of the computation")
                  .one_of({"fp32", "tf32", "bf16", "fp16"}));
  t.push_back(row("train.eval_batch", train, &C::Train::eval_batch,
                  "samples per evaluation step (0: train.global_batch)")
                  .between(0, 1e9));
  t.push_back(row("train.best", train, &C::Train::best,
                  "metric of the best weights; auto: accuracy where there are classes, else loss")
                  .one_of({"auto", "accuracy", "loss"}));

  const auto optimizer = &C::optimizer;
  t.push_back(
      row("optimizer.name", optimizer, &C::Optimizer::name, "update rule").one_of({"sgd", "adam", "adamw"}));
  t.push_back(row("optimizer.lr", optimizer, &C::Optimizer::lr, "learning rate").between(0, 1e6));
  t.push_back(
      row("optimizer.momentum", optimizer, &C::Optimizer::momentum, "sgd: momentum").between(0, 1).below(1));
  t.push_back(row("optimizer.nesterov", optimizer, &C::Optimizer::nesterov, "sgd: Nesterov's momentum"));
  t.push_back(row("optimizer.beta1", optimizer, &C::Optimizer::beta1, "adam, adamw: decay of the mean")
                  .between(0, 1)
                  .below(1));
  t.push_back(row("optimizer.beta2", optimizer, &C::Optimizer::beta2, "adam, adamw: decay of the mean square")
                  .between(0, 1)
                  .below(1));
  t.push_back(row("optimizer.epsilon", optimizer, &C::Optimizer::epsilon, "adam, adamw: added to the root")
                  .between(0, 1)
                  .above(1e-30));
  t.push_back(row("optimizer.weight_decay", optimizer, &C::Optimizer::weight_decay,
                  "sgd, adam: added to the gradient; adamw: decoupled")
                  .between(0, 1e3));
  t.push_back(row("optimizer.decay_norms", optimizer, &C::Optimizer::decay_norms,
                  "decay norms and biases too (parameters of one dimension)"));
  t.push_back(
      row("optimizer.clip_norm", optimizer, &C::Optimizer::clip_norm, "largest norm of the gradient (0: off)")
          .between(0, 1e30));
  t.push_back(
      row("optimizer.sharded", optimizer, &C::Optimizer::sharded, "each rank keeps and updates its own part")
          .placement());

  const auto schedule = &C::schedule;
  t.push_back(row("schedule.name", schedule, &C::Schedule::name, "learning rate over steps")
                  .one_of({"constant", "cosine", "step"}));
  t.push_back(row("schedule.warmup_steps", schedule, &C::Schedule::warmup_steps, "steps of linear warm-up"));
  t.push_back(row("schedule.steps", schedule, &C::Schedule::steps,
                  "horizon (0: what train.epochs or train.steps gives)"));
  t.push_back(row("schedule.min_lr", schedule, &C::Schedule::min_lr, "where cosine ends").between(0, 1e6));
  t.push_back(row("schedule.milestones", schedule, &C::Schedule::milestones,
                  "step: steps at which the rate is multiplied by schedule.gamma, e.g. 3000,6000")
                  .such_as(is_step_list, "a list of rising steps such as 3000,6000"));
  t.push_back(row("schedule.gamma", schedule, &C::Schedule::gamma, "step: what the rate is multiplied by")
                  .between(0, 1)
                  .above(0));
  t.push_back(row("schedule.changes", schedule, &C::Schedule::changes,
                  "other values from some step on, e.g. 400: optimizer.lr=0.01; --resume adds to it")
                  .such_as(is_change_list,
                           "a list such as 400: optimizer.lr=0.01; 900: optimizer.lr=0.001, "
                           "whose steps rise and whose keys are optimizer.lr or of schedule"));
}

void add_running(std::vector<ConfigBinding>& t) {
  const auto checkpoint = &C::checkpoint;
  t.push_back(row("checkpoint.every_steps", checkpoint, &C::Checkpoint::every_steps,
                  "steps between checkpoints (0: at the end of epochs)")
                  .placement());
  t.push_back(row("checkpoint.keep", checkpoint, &C::Checkpoint::keep, "checkpoints that are kept")
                  .between(1, 1e6)
                  .placement());
  t.push_back(row("checkpoint.async", checkpoint, &C::Checkpoint::async,
                  "write checkpoints behind the training, which stops for a copy only")
                  .placement());

  const auto guard = &C::guard;
  t.push_back(
      row("guard.nonfinite", guard, &C::Guard::nonfinite,
          "a gradient or loss that is NaN or infinite: stop, skip the batch, or roll back and skip it")
          .one_of({"stop", "skip", "rollback"}));
  t.push_back(
      row("guard.spike", guard, &C::Guard::spike, "a loss far above those before it: as above, or off")
          .one_of({"off", "stop", "skip", "rollback"}));
  t.push_back(row("guard.spike_factor", guard, &C::Guard::spike_factor,
                  "a spike is a loss above so many times the mean of the window")
                  .between(1, 1e6)
                  .above(1));
  t.push_back(row("guard.spike_window", guard, &C::Guard::spike_window, "steps whose losses make that mean")
                  .between(1, 1e5));
  t.push_back(
      row("guard.limit", guard, &C::Guard::limit, "batches that may be skipped in a run; one more stops it")
          .between(0, 1e6));

  const auto check = &C::check;
  t.push_back(row("check.replicas_every", check, &C::Check::replicas_every,
                  "steps between comparisons of the ranks' parameters (0: never)")
                  .placement());
  t.push_back(row("check.replicas", check, &C::Check::replicas,
                  "where they differ: stop, or repair from the majority of three or more ranks")
                  .one_of({"stop", "repair"})
                  .placement());
  t.push_back(row("check.recompute_every", check, &C::Check::recompute_every,
                  "steps between slices that another rank computes again (0: never)")
                  .placement());
  t.push_back(row("watchdog.timeout", &C::watchdog, &C::Watchdog::timeout,
                  "seconds without progress until the job ends with a report (0: wait for ever)")
                  .between(0, 1e6)
                  .placement());

  const auto log = &C::log;
  t.push_back(row("log.every_steps", log, &C::Log::every_steps, "steps between lines of metrics.jsonl")
                  .between(1, 1e15)
                  .placement());
  t.push_back(row("log.timeline", log, &C::Log::timeline, "record what each rank did when").placement());
  t.push_back(row("log.per_rank", log, &C::Log::per_rank, "a log file of every rank in the run directory")
                  .placement());
  t.push_back(row("log.straggler_factor", log, &C::Log::straggler_factor,
                  "warn of a rank so many times slower than the median (0: never)")
                  .between(0, 1e6)
                  .placement());
  t.push_back(row("device.kind", &C::device, &C::Device::kind, "where to compute; --device for short")
                  .one_of({"auto", "cpu", "cuda"}));
  t.push_back(
      row("device.threads", &C::device, &C::Device::threads, "lanes per rank (0: its share of the cores)")
          .between(0, 4096)
          .placement());
  t.push_back(row("device.deterministic", &C::device, &C::Device::deterministic,
                  "GPU: only library plans that give the same bits in every run"));
  t.push_back(row("device.graph", &C::device, &C::Device::graph, "GPU: capture kernels into CUDA graphs")
                  .placement());
  t.push_back(row("device.fuse", &C::device, &C::Device::fuse,
                  "GPU: compute batch norm together with convolutions, GELU and bias gradients with "
                  "dense layers, where the library can"));
  t.push_back(row("device.workspace_mb", &C::device, &C::Device::workspace_mb,
                  "GPU: most MiB that a library plan may take")
                  .between(0, 1e6));
  t.push_back(row("device.autotune", &C::device, &C::Device::autotune,
                  "GPU: measure the library plans of each shape, take the fastest"));
  t.push_back(row("device.plan_cache", &C::device, &C::Device::plan_cache,
                  "file or folder for what autotuning found (empty: in the user's cache)")
                  .placement());
  t.push_back(
      row("device.pin", &C::device, &C::Device::pin, "pin lanes to cores when each has its own").placement());
  t.push_back(row("device.share", &C::device, &C::Device::share,
                  "let several ranks use one GPU; collectives then go through the host")
                  .placement());
  t.push_back(row("comm.backend", &C::comm, &C::Comm::backend,
                  "what carries gradients between GPUs: nccl, or mpi through the host")
                  .one_of({"auto", "nccl", "mpi"})
                  .placement());
}

std::vector<ConfigBinding> make_table() {
  std::vector<ConfigBinding> table;
  add_model_and_data(table);
  add_training(table);
  add_running(table);
  const Config defaults;
  for (ConfigBinding& b : table) b.key.default_text = b.get(defaults);
  return table;
}

}  // namespace

const std::vector<ConfigBinding>& config_bindings() {
  static const std::vector<ConfigBinding> table = make_table();
  return table;
}

const std::vector<ConfigKey>& config_keys() {
  static const std::vector<ConfigKey> keys = [] {
    std::vector<ConfigKey> out;
    for (const ConfigBinding& b : config_bindings()) out.push_back(b.key);
    return out;
  }();
  return keys;
}

}  // namespace lockstep
