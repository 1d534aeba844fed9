#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "optim/options.h"

namespace lockstep {

struct LossOptions;  // model/graph/op_entry.h

/// The value of model.name for the graph that the program builds itself (trainer/cli/application.h).
inline constexpr const char* custom_model = "custom";

/// Everything a run is told: one member per key, in the groups of the keys. Defaults are those of the key
/// table in config_table.cpp; a zero or empty value marked (auto) is resolved by resolve() once the data and
/// the ranks are known.
struct Config {
  struct Run {
    std::string dir;                    ///< run.dir (auto: runs/<config file's stem>)
    std::uint64_t seed = 1;             ///< run.seed
    bool overwrite = false;             ///< --overwrite, not stored
    bool resume = false;                ///< --resume, not stored
    bool dry_run = false;               ///< --dry-run, not stored
    bool allow_numeric_change = false;  ///< --allow-numeric-change, not stored
    bool allow_slices_change = false;   ///< --allow-slices-change, not stored
    bool allow_data_change = false;     ///< --allow-data-change, not stored
    bool take_over = false;             ///< --take-over, not stored
    /// What --resume asks of the learning rate, key -> value (trainer/config/schedule_changes.h); not stored
    std::map<std::string, std::string> rate_change;
  } run;
  struct Model {
    std::string name;                            ///< model.name: a zoo name, "custom", or empty
    std::string layers;                          ///< model.layers: one line of layers, or empty
    std::string freeze;                          ///< model.freeze: patterns of names (model/graph/freeze.h)
    std::map<std::string, std::string> options;  ///< model.hidden, model.dropout, … : options of zoo models
  } model;
  struct Loss {
    std::string name = "cross_entropy";  ///< loss.name: the name of a loss (model/ops/loss)
    double label_smoothing = 0;          ///< loss.label_smoothing
    std::string class_weights;           ///< loss.class_weights: "1,2.5,1", or empty
    double delta = 1;                    ///< loss.delta
  } loss;
  struct Data {
    std::string format = "idx";  ///< data.format: idx, csv, synthetic
    std::string train;           ///< data.train: CSV file, or IDX images
    std::string train_labels;    ///< IDX labels; default: the file beside the images, by name
    std::string test, test_labels;
    std::string validation, validation_labels;
    /// data.label: CSV column(s), by name or 0-based index, comma separated; default the last
    std::string label;
    std::string drop;             ///< data.drop: CSV columns that are left out, named likewise
    std::string header = "auto";  ///< data.header: whether the first line of a CSV file is one: auto, yes, no
    std::string delimiter = ",";  ///< data.delimiter: what separates the fields of a CSV file
    std::string layout = "auto";  ///< data.layout: axes of IDX images: auto, chw, hwc
    double validation_fraction = 0;      ///< of the training file, when data.validation is empty
    double test_fraction = 0;            ///< of the training file, when data.test is empty
    std::string normalize = "auto";      ///< none, auto, unit (x/255), standard (mean and deviation)
    std::string scale_targets = "none";  ///< mse: none, standard (mean and deviation of the training split)
    std::string shape;         ///< data.shape: e.g. 1x28x28 (CSV images, synthetic); default from the file
    std::int64_t classes = 0;  ///< (auto) data.classes: largest label of the training split + 1
    std::int64_t samples = 0;  ///< data.samples: synthetic data set size
    int workers = 1;           ///< data.workers: loader threads per rank; 0 loads in the step
    std::int64_t limit = 0;    ///< data.limit: use only the first so many training samples; 0: all
    std::string read = "map";  ///< data.read: how sets of files come in: map, read
    std::int64_t window = 4;   ///< data.window: files of a set among which samples are mixed
    bool flip = false;         ///< data.flip: training images are mirrored with probability 1/2
    std::int64_t crop_padding = 0;  ///< data.crop_padding: pixels around a training image that is cropped
  } data;
  struct Train {
    std::int64_t epochs = 0;  ///< 0: until train.steps
    std::int64_t steps = 0;   ///< upper bound; 0: none
    std::int64_t global_batch = 32;
    std::int64_t slices = 0;            ///< (auto)
    std::string reduction = "ordered";  ///< ordered, fast
    double bucket_mb = 4.0;
    bool overlap = true;
    std::string precision = "fp32";  ///< fp32, bf16; on CUDA also tf32, fp16
    std::int64_t eval_batch = 0;     ///< (auto: train.global_batch)
    std::string best = "auto";       ///< metric of the best weights: auto, accuracy, loss
  } train;
  using Optimizer = OptimizerOptions;
  Optimizer optimizer;
  using Schedule = ScheduleOptions;
  Schedule schedule;
  struct Checkpoint {
    std::int64_t every_steps = 0;  ///< 0: at the end of every epoch only
    std::int64_t keep = 2;
    bool async = true;  ///< checkpoint.async: written behind the training, which stops for a copy only
  } checkpoint;
  struct Guard {
    std::string nonfinite = "stop";   ///< guard.nonfinite: stop, skip, rollback
    std::string spike = "off";        ///< guard.spike: off, stop, skip, rollback
    double spike_factor = 4.0;        ///< a loss above this many times the mean of the window is a spike
    std::int64_t spike_window = 100;  ///< steps whose losses make the mean; none is a spike before it is full
    std::int64_t limit = 10;          ///< skipped batches of a run; one more stops it
  } guard;
  struct Check {
    std::int64_t replicas_every = 100;  ///< steps between comparisons of parameters; 0: never
    std::string replicas = "stop";      ///< check.replicas: stop, repair
    std::int64_t recompute_every = 0;   ///< steps between slices computed twice; 0: never
  } check;
  struct Watchdog {
    double timeout = 60;  ///< watchdog.timeout: seconds without progress; 0: off
  } watchdog;
  struct Log {
    std::int64_t every_steps = 50;
    bool timeline = false;  ///< log.timeline: timeline.rank<N>.jsonl in the run directory
    bool per_rank = false;  ///< log.per_rank: log.rank<N>.txt in the run directory
    double straggler_factor =
        2;  ///< log.straggler_factor: warn of a rank slower than the median by it; 0: never
  } log;
  struct Device {
    std::string kind = "auto";  ///< auto, cpu, cuda
    int threads = 0;            ///< (auto) lanes per rank
    bool pin = true;            ///< device.pin: pin lanes to cpus when each has its own
    bool share = false;         ///< device.share: several ranks may use one GPU
    bool deterministic = true;  ///< device.deterministic: only library plans that give the same bits again
    bool graph = true;          ///< device.graph: capture a GPU's kernels into CUDA graphs
    bool fuse = true;           ///< device.fuse: compute batch norm together with convolutions
    std::int64_t workspace_mb = 1024;  ///< device.workspace_mb: the most that a library plan may take
    bool autotune = false;             ///< device.autotune: take the library plans that are measured fastest
    std::string plan_cache;            ///< device.plan_cache: where those are kept; empty: the user's cache
  } device;
  struct Comm {
    std::string backend = "auto";  ///< comm.backend, of GPUs: auto, nccl, mpi (through the host)
  } comm;
};

/// What the keys of the loss say besides its name. ConfigError: class weights that are no list of numbers of
/// at least 0.
LossOptions loss_options(const Config& config);
/// Whether the loss that the config names takes labels of classes; else it takes targets.
bool loss_takes_labels(const Config& config);

/// One key of the table: everything the command line, config files, help, the resolved file and the checks on
/// --resume know about it.
struct ConfigKey {
  enum class Kind { text, integer, real, boolean, choice };
  std::string name;  ///< "train.global_batch"
  Kind kind = Kind::text;
  std::string default_text;                  ///< as it would stand in a file; "" = none or (auto)
  std::string help;                          ///< one line
  std::vector<std::string> choices;          ///< Kind::choice
  double low = 0, high = 0;                  ///< inclusive range of integer and real; low > high: unbounded
  bool low_open = false, high_open = false;  ///< the bound itself is not allowed
  bool placement = false;                    ///< changes no bit; may change on --resume
};
/// The table, in the order of config.resolved.ini.
const std::vector<ConfigKey>& config_keys();

/// Where a value came from: for error messages.
struct ConfigSource {
  std::string value;
  std::string origin;  ///< "configs/a.ini:12" or "--train.epochs" or "default"
};
/// Key -> value as text, checked against the table for existence, type, range and choice.
using ConfigValues = std::map<std::string, ConfigSource>;

/// Reads an INI file. Throws ConfigError: missing, unreadable, a directory, not text, unknown key (with the
/// nearest known one), abbreviated key, duplicate key, wrong type or range; each with file and line.
ConfigValues read_config_file(const std::string& path);
/// The same from text; `origin` names it in messages.
ConfigValues parse_config_text(const std::string& text, const std::string& origin);

/// The parsed command line of any command.
struct CommandLine {
  std::string command;      ///< train, evaluate, …; empty with --help or --version
  std::string config_file;  ///< --config
  ConfigValues overrides;   ///< --section.key value, --device KIND
  std::map<std::string, std::string>
      options;  ///< the command's own: run, input, output, format, weights, …; flags hold "1"
  std::vector<std::string> arguments;  ///< positional, e.g. FILE of digest
};
/// Throws ConfigError. Accepts "--key value" and "--key=value".
CommandLine parse_command_line(int argc, const char* const* argv);
std::string help_text(const std::string& command);
/// Sets the members of Config that are flags of `train` and no keys: overwrite, resume, dry_run,
/// allow_numeric_change, allow_slices_change, allow_data_change, take_over.
void apply_flags(const CommandLine& line, Config& config);

/// Typed config from values (missing keys: defaults). Checks combinations: model.name and model.layers both
/// given, etc.
Config make_config(const ConfigValues& values);
/// The values of a typed config as text, every key, for config.resolved.ini; parse_config_text reads it back
/// to an equal Config.
std::string resolved_ini(const Config& config);
/// The names of all placement keys, in the order of the table.
std::vector<std::string> placement_keys();
/// Such a text without the lines of these keys. What has another form is kept.
std::string without_keys(const std::string& resolved, const std::vector<std::string>& keys);
/// Keys whose values differ between two configs and are neither placement keys nor train.epochs, train.steps
/// or schedule.changes, which may grow.
std::vector<std::string> changed_keys(const Config& stored, const Config& wanted);

}  // namespace lockstep
