#include "trainer/model_commands.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "trainer/checkpoint.h"
#include "trainer/config_checks.h"
#include "trainer/config_table.h"
#include "trainer/data/open.h"
#include "trainer/evaluation.h"
#include "trainer/memory_check.h"
#include "trainer/model_state.h"
#include "trainer/plan_report.h"
#include "trainer/run_directory.h"

namespace lockstep {
namespace {

/// The weights that --weights asks for: the file at the end of a run, or else the newest whole checkpoint.
TensorParts open_weights(const RunDirectory& run, const std::string& which, const Log& log,
                         std::string& said) {
  CheckpointStore store(run.path());
  std::vector<std::string> passed_over;
  const auto tell = [&] {
    for (const std::string& reason : passed_over) log.warning("{}", reason);
  };
  if (which == "best") {
    if (const auto weights = weights_of_run(run.best())) return TensorParts(*weights);
    const auto newest = store.load_newest(passed_over);
    const auto best = newest ? store.find_best(newest->state.best_step, passed_over) : std::nullopt;
    tell();
    if (!best && newest && newest->state.best_step >= 0)
      throw InputError(
          fmt::format("{}: its best weights, those of step {}, could not be saved or are not whole; go on "
                      "training until there are better ones, or leave --weights best out",
                      run.path(), newest->state.best_step));
    if (!best)
      throw InputError(
          fmt::format("{}: it holds no best weights; they are kept when a validation split is configured "
                      "(data.validation or "
                      "data.validation_fraction)",
                      run.path()));
    said = best->path;
    return load_checkpoint(best->path).model;
  }
  if (const auto weights = weights_of_run(run.model())) return TensorParts(*weights);
  const auto newest = store.load_newest(passed_over);
  if (!newest)
    throw InputError(fmt::format("{}: it holds neither model.safetensors nor a whole checkpoint{}",
                                 run.path(), passed_over.empty() ? "" : ": " + passed_over.front()));
  tell();
  said = newest->path;
  return newest->model;
}

/// Other parts of the training file than the run divided it into would hold samples that it was trained on. A
/// fraction of 0 makes room for a file of its own.
void refuse_other_parts(const CommandLine& command, const Config& trained, const std::string& run) {
  for (const char* key : {"data.validation_fraction", "data.test_fraction"}) {
    const auto given = command.overrides.find(key);
    if (given == command.overrides.end()) continue;
    const ConfigBinding& binding = *find_binding(key);
    Config wanted;
    binding.set(binding.key, given->second.value, key, wanted);
    if (const std::string text = binding.get(wanted); text != "0" && text != binding.get(trained))
      throw ConfigError(fmt::format(
          "--{}: {} is not what the run in {} was trained with, {}: its parts of the training file are "
          "fixed; leave it out, or give 0 and name a file",
          key, text, run, binding.get(trained)));
  }
}

/// A run ready to be used: config, data description, model on all ranks.
struct LoadedRun {
  Config config;
  DataInfo info;
  std::string data_record;  ///< data.json as text; empty where there is none
  Lanes lanes;
  ComputeDevice device;
  std::unique_ptr<Evaluator> evaluator;
  std::vector<float> parameters;
};

LoadedRun load_run(const CommandLine& command, Job& job) {
  Communicator& comm = job.comm;
  LoadedRun run;
  std::string config_text, info_text;
  std::optional<TensorParts> weights;
  std::optional<Graph> graph;
  const std::string path = command.options.at("run");
  const auto which = command.options.find("weights");
  together(comm, [&] {
    if (!job.leader()) return;
    const RunDirectory directory = RunDirectory::open(path);
    ConfigValues values = read_config_file(directory.config());
    refuse_other_parts(command, make_config(values), path);
    for (const auto& [key, source] : command.overrides) values[key] = source;
    config_text = resolved_ini(make_config(values));
    info_text = read_file(directory.preprocessing());
    if (std::error_code ignored; std::filesystem::exists(directory.data(), ignored))
      run.data_record = read_file(directory.data(), Empty::allow);
    std::string said;
    weights = open_weights(directory, which == command.options.end() ? "last" : which->second, job.log, said);
    if (!said.empty()) job.log.info("the weights are those of {}", said);
  });
  run.config = make_config(parse_config_text(comm.broadcast_text(config_text, 0), path));
  run.config.run.dir = path;
  job.watch(run.config);
  const std::string shared_info = comm.broadcast_text(info_text, 0);
  together(comm, [&] {
    check_device(run.config);
    resolve_eval_batch(run.config);
    run.info = DataInfo::from_json(shared_info, path + "/preprocessing.json");
    graph = build_graph(run.config, run.info.sample_shape,
                        run.info.classes > 0 ? run.info.classes : run.info.target_width, job.custom_graph);
    check_memory(*graph, "train.eval_batch", run.config.train.eval_batch, run.config.train.slices);
    if (job.leader()) {
      std::vector<std::string> names;
      for (const Parameter& p : graph->parameters) names.push_back(p.name);
      for (const Statistic& s : graph->statistics) names.push_back(s.name);
      weights->check_names(names);
    }
  });
  const DeviceChoice choice = choose_device(run.config, comm);
  bind_near(choice, run.config);
  run.device = open_device(choice, run.config);
  run.lanes = make_lanes(run.config, comm);
  run.evaluator = std::make_unique<Evaluator>(*graph, run.config.train.eval_batch, run.config.train.slices,
                                              comm, *run.lanes.pool, run.lanes.cpus, run.device);
  if (job.leader()) log_notes(run.device, job.log);
  run.parameters.resize(static_cast<std::size_t>(run.evaluator->executor().layout().elements));
  load_model(
      comm, run.evaluator->executor(),
      [&](const std::string& name, const Shape& shape, std::span<float> out) {
        weights->read_f32(name, shape, out);
      },
      run.parameters);
  return run;
}

/// softmax of logits in float64.
std::vector<double> probabilities(std::span<const float> logits) {
  std::vector<double> p(logits.begin(), logits.end());
  const double top = p[static_cast<std::size_t>(largest(logits))];
  double sum = 0;
  for (double& x : p) sum += x = std::exp(x - top);
  for (double& x : p) x /= sum;
  return p;
}

/// Warns where files that the run named hold other data now; a path that the user gives names data of their
/// own, unless they are a part of the training file.
void warn_of_other_data(const LoadedRun& run, const std::vector<DataContent>& contents,
                        const CommandLine& command, const Log& log) {
  if (run.data_record.empty()) return;
  std::vector<DataContent> was, now, recorded;
  try {
    recorded = DataRecord::from_json(run.data_record, run.config.run.dir + "/data.json").files;
  } catch (const InputError& e) {
    return log.warning("{}", e.what());
  }
  for (const DataContent& content : contents) {
    const auto of_run = std::find_if(recorded.begin(), recorded.end(),
                                     [&](const DataContent& c) { return c.key == content.key; });
    const bool named = command.overrides.count(content.key) > 0 && content.key != "data.train";
    if (of_run == recorded.end() || named) continue;
    was.push_back(*of_run);
    now.push_back(content);
  }
  for (const std::string& what : differences(was, now))
    log.warning("{}: these are not the data that the run in '{}' was trained with", what, run.config.run.dir);
}

}  // namespace

int evaluate_command(const CommandLine& command, Job& job) {
  LoadedRun run = load_run(command, job);
  const auto asked = command.options.find("split");
  const std::string split = asked == command.options.end() ? "test" : asked->second;
  DataSets data;
  std::shared_ptr<const Dataset> chosen;
  together(job.comm, [&] {
    data = open_datasets(run.config, {split == "train", split == "validation", split == "test"}, &run.info);
    chosen = split == "train" ? data.train : split == "validation" ? data.validation : data.test;
    if (!chosen)
      throw ConfigError(fmt::format("--split {}: the run has no such data; give data.{} or data.{}_fraction",
                                    split, split, split));
  });
  check_same_data(job.comm, data.contents);
  if (job.leader()) warn_of_other_data(run, data.contents, command, job.log);
  const Evaluation result =
      run.evaluator->run(chosen, run.info.normalizer, run.parameters, run.config.data.workers);
  if (job.leader()) std::cout << evaluation_text(result, run.info, split) << std::flush;
  return static_cast<int>(ExitCode::done);
}

int predict_command(const CommandLine& command, Job& job) {
  LoadedRun run = load_run(command, job);
  std::shared_ptr<const Dataset> inputs;
  std::vector<DataContent> contents;
  std::ofstream file;
  const auto output = command.options.find("output");
  together(job.comm,
           [&] { inputs = open_inputs(run.config, run.info, command.options.at("input"), &contents); });
  check_same_data(job.comm, contents);
  together(job.comm, [&] {
    if (!job.leader() || output == command.options.end()) return;
    std::error_code ignored;
    if (std::filesystem::equivalent(output->second, command.options.at("input"), ignored))
      throw ConfigError(fmt::format("--output {}: is the file of --input, which would be lost; name another",
                                    output->second));
    file.open(output->second, std::ios::trunc);
    if (!file)
      throw InputError(fmt::format("--output {}: it cannot be written: {}; name another", output->second,
                                   std::generic_category().message(errno)));
  });
  std::ostream& out = file.is_open() ? static_cast<std::ostream&>(file) : std::cout;
  run.evaluator->predict(inputs, run.info.normalizer, run.parameters, run.config.data.workers,
                         [&](std::int64_t index, std::span<const float> values) {
                           nlohmann::ordered_json line{{"index", index}};
                           if (run.info.classes > 0) {
                             const std::int64_t label = largest(values);
                             const std::vector<double> p = probabilities(values);
                             line["label"] = label;
                             if (!run.info.class_names.empty()) line["class"] = run.info.class_name(label);
                             line["probability"] = p[static_cast<std::size_t>(label)];
                             line["probabilities"] = p;
                           } else if (values.size() == 1) {
                             line["prediction"] = values[0];
                           } else {
                             line["prediction"] = std::vector<float>(values.begin(), values.end());
                           }
                           out << line.dump() << '\n';
                         });
  together(job.comm, [&] {
    out.flush();
    if (job.leader() && !out)
      throw InputError((output == command.options.end() ? std::string("standard output") : output->second) +
                       ": the predictions could not be written");
  });
  return static_cast<int>(ExitCode::done);
}

int export_command(const CommandLine& command, const Log& log) {
  const RunDirectory run = RunDirectory::open(command.options.at("run"));
  const auto which = command.options.find("weights");
  std::string said;
  const TensorParts weights =
      open_weights(run, which == command.options.end() ? "last" : which->second, log, said);
  const std::string& output = command.options.at("output");
  std::error_code ignored;
  // A whole file takes the place of the old one: that must not be a device or a pipe.
  if (std::filesystem::exists(output, ignored) && !std::filesystem::is_regular_file(output, ignored))
    throw InputError(fmt::format("--output {}: is there already and is not a file; name a file", output));
  weights.write(output);
  std::cout << fmt::format("{}: {} tensors from {}\n", command.options.at("output"), weights.tensors().size(),
                           weights.name());
  return static_cast<int>(ExitCode::done);
}

}  // namespace lockstep
