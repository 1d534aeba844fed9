#include "trainer/run/job.h"

#include <fmt/format.h>
#include <gnu/libc-version.h>
#include <unistd.h>

#include "comm/world.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "device/cpu_info.h"
#include "model/graph/freeze.h"
#include "model/graph/op_table.h"
#include "model/zoo/layers_line.h"
#include "model/zoo/zoo.h"
#include "trainer/checkpoint/run_directory.h"
#include "trainer/config/paths.h"
#include "trainer/config/schedule_changes.h"
#include "watch/watchdog.h"

namespace lockstep {

namespace {

Graph build_custom(const GraphFunction& build, const Shape& input, std::int64_t outputs,
                   const OpAttrs& loss) {
  if (!build)
    throw ConfigError(
        "model.name = custom: that model is part of the C++ program that trained it, and this program has "
        "none; use "
        "that program, or give model.layers or a model of the zoo");
  Graph graph = build(input, outputs, loss);
  const auto refuse = [](const std::string& what) { throw ConfigError("model.name = custom: " + what); };
  if (graph.inputs.size() != 1 || graph.output < 0)
    refuse("the graph of this program needs one input and an output");
  if (graph.parameter_count() == 0) refuse("the graph of this program has no weights to train");
  if (const Shape& takes = graph.shape_of(graph.inputs[0]); takes != input)
    refuse(fmt::format("the graph of this program takes samples of shape {}, but the data has {}",
                       takes.text(), input.text()));
  if (const Shape& gives = graph.shape_of(graph.output); gives != Shape{outputs})
    refuse(fmt::format("the graph of this program gives {} outputs, but the data needs {}", gives.text(),
                       outputs));
  if (&graph.loss.attrs.entry() != &loss.entry())
    refuse("the graph of this program was finished with another loss than loss.name");
  return graph;
}

}  // namespace

void Job::watch(const Config& config) const {
  if (watchdog == nullptr) return;
  watchdog->set_timeout(config.watchdog.timeout);
  watchdog->set_report_directory(config.run.dir);
}

namespace {

Graph build_unfrozen(const Config& config, const Shape& input, std::int64_t outputs,
                     const GraphFunction& custom) {
  const OpEntry& entry = *find_loss(config.loss.name);
  const OpAttrs loss =
      entry.attrs_with != nullptr ? entry.attrs_with(loss_options(config)) : entry.default_attrs();
  if (!config.model.layers.empty()) return build_layers(config.model.layers, input, outputs, loss);
  if (config.model.name == custom_model) return build_custom(custom, input, outputs, loss);
  return build_model(config.model.name, config.model.options, input, outputs, loss);
}

}  // namespace

Graph build_graph(const Config& config, const Shape& input, std::int64_t outputs,
                  const GraphFunction& custom) {
  Graph graph = build_unfrozen(config, input, outputs, custom);
  freeze_parameters(graph, config.model.freeze);
  return graph;
}

Lanes make_lanes(const Config& config, Communicator& comm) {
  LanePlan plan = lanes_for_rank(comm, config.device.threads);
  if (!config.device.pin) plan.cpus.clear();
  const Topology& ranks = comm.topology();
  Lanes lanes;
  lanes.cpus = allowed_cpus();  // before lane 0, which is this thread, is pinned
  lanes.pool = std::make_unique<LanePool>(plan.lanes, plan.cpus);
  if (ranks.local_rank() == 0) lanes.warning = plan.warning;
  return lanes;
}

RankDescription describe_rank(const Lanes& lanes, const DeviceChoice& device) {
  RankDescription mine;
  mine.host = host_name();
  mine.pid = getpid();
  mine.device = device.kind == "cpu" ? "cpu" : device.gpu.name;
  if (device.kind != "cpu" && !device.shared) mine.exclusive_device = device.gpu.uuid;
  mine.lanes = lanes.pool->size();
  mine.cpus = lanes.cpus;
  return mine;
}

std::string numeric_fingerprint(const std::string& plan, const std::string& device) {
  const CpuInfo cpu = cpu_info();
  return fmt::format("binary: {}\nlibc: {}\ninstruction set: {}\ncaches: {} {} {}\nplan: {}\n{}",
                     sha256_hex(read_file("/proc/self/exe")), gnu_get_libc_version(), cpu.isa, cpu.l1d_bytes,
                     cpu.l2_bytes, cpu.l3_bytes, sha256_hex(plan),
                     device.empty() ? device : "device: " + device + "\n");
}

namespace {

/// The stored config of the run that `wanted` names, with the wanted values over it. Throws ConfigError when
/// that would change bits.
ConfigValues resumed_values(const ConfigValues& wanted, bool allow_slices_change) {
  const RunDirectory run = RunDirectory::open(wanted.at("run.dir").value);
  const ConfigValues stored = read_config_file(run.config());
  ConfigValues values = stored;
  for (const auto& [key, source] : wanted)
    if (!is_rate_key(key) && key != "schedule.changes") values[key] = source;
  const std::vector<std::string> changed = changed_keys(make_config(stored), make_config(values));
  for (const std::string& key : changed) {
    if (key == "run.dir") continue;  // the directory may have been moved; where it lies changes no bit
    if (key == "train.slices" && allow_slices_change) continue;
    const auto old = stored.find(key);
    throw ConfigError(
        fmt::format("{}: {} is \"{}\", but the run in {} was started with \"{}\"; --resume may change only "
                    "placement keys, train.epochs and train.steps, and by flags optimizer.lr and the keys of "
                    "schedule{}",
                    values.at(key).origin, key, values.at(key).value, run.path(),
                    old == stored.end() ? "" : old->second.value,
                    key == "train.slices" ? ", and train.slices with --allow-slices-change" : ""));
  }
  return values;
}

/// What --resume asks of the learning rate, as a list of one change of a step that is not known yet.
std::string wanted_change(const ConfigValues& wanted) {
  const RunDirectory run = RunDirectory::open(wanted.at("run.dir").value);
  const auto values = wanted_rate_change(read_config_file(run.config()), wanted);
  return values.empty() ? std::string() : changes_text({{0, values}});
}

}  // namespace

Config share_config(const CommandLine& command, const Job& job) {
  Communicator& comm = job.comm;
  std::string text, change;
  agree_on_error(comm, [&] {
    if (comm.rank() != 0) return;
    ConfigValues values = given_values(command);
    if (command.options.count("resume") != 0) {
      change = wanted_change(values);
      values = resumed_values(values, command.options.count("allow-slices-change") != 0);
    } else if (job.custom_graph && values["model.name"].value.empty() &&
               values["model.layers"].value.empty()) {
      values["model.name"] = {custom_model, "default"};
    }
    text = resolved_ini(make_config(values));
  });
  Config config = make_config(parse_config_text(comm.broadcast_text(text, 0), "config"));
  const std::string wanted = comm.broadcast_text(change, 0);
  if (const auto changes = parse_changes(wanted); changes && !changes->empty())
    config.run.rate_change = changes->front().values;
  apply_flags(command, config);
  return config;
}

}  // namespace lockstep
