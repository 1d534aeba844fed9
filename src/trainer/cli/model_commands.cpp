#include "trainer/cli/model_commands.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <fmt/format.h>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

#include "core/counted.h"
#include "core/error.h"
#include "core/file.h"
#include "core/flight_recorder.h"
#include "core/printable.h"
#include "data/readers/check_values.h"
#include "data/readers/csv_text.h"
#include "data/readers/gzip.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/run_directory.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_table.h"
#include "trainer/data/open.h"
#include "trainer/evaluate/evaluation.h"
#include "trainer/evaluate/evaluation_report.h"
#include "trainer/evaluate/id_columns.h"
#include "trainer/evaluate/kept_files.h"
#include "trainer/evaluate/output_file.h"
#include "trainer/evaluate/prediction_rows.h"
#include "trainer/evaluate/standard_input.h"
#include "trainer/run/memory_check.h"
#include "trainer/run/plan_report.h"
#include "trainer/run/progress.h"
#include "trainer/step/model_state.h"

namespace lockstep {
namespace {

std::string why_no_best(const RunDirectory& run, const std::optional<Checkpoint>& newest) {
  const Config config = make_config(read_config_file(run.config()));
  if (config.data.validation.empty() && config.data.validation_fraction == 0)
    return "they are kept when a validation split is configured (data.validation or "
           "data.validation_fraction)";
  if (!newest) return "there is no whole checkpoint yet";
  return fmt::format(
      "no validation up to step {} gave a finite loss; one is made at the end of every epoch and "
      "of the training, so go on with --resume, or leave --weights best out",
      newest->state.step);
}

constexpr std::uint64_t most_text = std::uint64_t{16} << 30;  // of a CSV file

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
    const auto best = newest ? store.find_best(newest->state.best.step, passed_over) : std::nullopt;
    tell();
    if (!best && newest && newest->state.best.step >= 0)
      throw InputError(
          fmt::format("{}: its best weights, those of step {}, could not be saved or are not whole; go on "
                      "training until there are better ones, or leave --weights best out",
                      run.path(), newest->state.best.step));
    if (!best)
      throw InputError(fmt::format("{}: it holds no best weights: {}", run.path(), why_no_best(run, newest)));
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

/// What a command must not overwrite besides the files of runs: the data that it reads, and those of the run.
std::vector<std::string> files_read(const Config& config) {
  std::vector<std::string> files = data_files(config);
  for (std::string& file : data_files_of_run(config.run.dir)) files.push_back(std::move(file));
  return files;
}

/// A run ready to be used: config, data description, model on all ranks.
struct LoadedRun {
  Config config;
  DataInfo info;
  std::optional<DataRecord> data_record;  ///< data.json, where there is one; on rank 0
  Lanes lanes;
  ComputeDevice device;
  std::unique_ptr<Evaluator> evaluator;
  std::vector<float> parameters;
  std::string digest;  ///< of the weights; on rank 0, where a report is asked for
};

/// data.json of the run; nothing where there is none, as of an older Lockstep.
std::optional<DataRecord> read_data_record(const RunDirectory& run) {
  std::error_code ignored;
  if (!std::filesystem::exists(run.data(), ignored)) return std::nullopt;
  try {
    return DataRecord::from_json(read_file(run.data(), Empty::allow), run.data());
  } catch (const InputError& e) {
    throw InputError(fmt::format(
        "{}; put back the file that the run wrote, or remove it to go without a look whether the data are "
        "those of the training",
        e.what()));
  }
}

LoadedRun load_run(const CommandLine& command, Job& job) {
  Communicator& comm = job.comm;
  LoadedRun run;
  std::string config_text, info_text;
  std::optional<TensorParts> weights;
  std::optional<Graph> graph;
  const std::string path = command.options.at("run");
  const auto which = command.options.find("weights");
  agree_on_error(comm, [&] {
    if (!job.leader()) return;
    const RunDirectory directory = RunDirectory::open(path);
    ConfigValues values = read_config_file(directory.config());
    refuse_other_parts(command, make_config(values), path);
    for (const auto& [key, source] : command.overrides) values[key] = source;
    config_text = resolved_ini(make_config(values));
    info_text = directory.read_preprocessing();
    run.data_record = read_data_record(directory);
    std::string said;
    weights = open_weights(directory, which == command.options.end() ? "last" : which->second, job.log, said);
    if (!said.empty()) job.log.info("the weights are those of {}", said);
    weights->refuse_nonfinite();
    if (command.command == "evaluate" && command.options.count("output") > 0) run.digest = weights->digest();
  });
  run.config = make_config(parse_config_text(comm.broadcast_text(config_text, 0), path));
  run.config.run.dir = path;
  job.watch(run.config);
  const std::string shared_info = comm.broadcast_text(info_text, 0);
  agree_on_error(comm, [&] {
    check_device(run.config);
    resolve_eval_batch(run.config);
    run.info = DataInfo::from_json(shared_info, path + "/preprocessing.json");
    graph = build_graph(run.config, run.info.sample_shape,
                        run.info.classes > 0 ? run.info.classes : run.info.target_width, job.custom_graph);
    check_memory(*graph, "train.eval_batch", run.config.train.eval_batch, run.config.train.slices);
    check_evaluation_memory(*graph, run.config.train.eval_batch, run.config.train.slices, comm.size(), 0);
    if (job.leader()) {
      std::vector<std::string> names;
      for (const Parameter& p : graph->parameters) names.push_back(p.name);
      for (const Statistic& s : graph->statistics) names.push_back(s.name);
      weights->check_names(names);
    }
  });
  const DeviceChoice choice = choose_device(run.config, comm);
  bind_near(choice, run.config);
  agree_on_error(comm, [&] { run.device = open_device(choice, run.config); });
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

std::string option_or(const CommandLine& command, const std::string& name, const std::string& otherwise) {
  const auto given = command.options.find(name);
  return given == command.options.end() ? otherwise : given->second;
}

void warn_of_inputs(const Dataset& data, const LoadedRun& run, const Job& job) {
  if (!job.leader()) return;
  for (const std::string& text : warnings_of_inputs(data, run.info)) job.log.warning("{}", text);
}

/// (all) The samples of --input, and what is carried along from them into the rows of predictions.
InputSamples open_prediction_inputs(const CommandLine& command, const LoadedRun& run, Job& job,
                                    IdColumns& ids) {
  const std::string path = command.options.at("input");
  const std::string asked = option_or(command, "id", "");
  const bool standard = path == "-", csv = run.config.data.format == "csv";
  CsvText text;
  std::string piped;
  agree_on_error(job.comm, [&] {
    if (standard && !csv)
      throw ConfigError(
          "--input -: standard input is read as CSV, and this run was trained on other files; name a file");
    if (!asked.empty() && !csv)
      throw ConfigError("--id names columns of a CSV file, and this run was trained on other files");
    if (standard && job.leader()) {
      const FlightScope scope(job.comm.recorder(), Activity::load_data);
      piped = read_standard_input(job.comm.recorder(),
                                  [&] { job.log.info("waiting for samples on standard input"); });
    }
  });
  const char delimiter = parse_delimiter(run.config.data.delimiter).value_or(',');
  if (standard) text = {job.comm.broadcast_text(piped, 0), "standard input (--input)", delimiter};
  InputSamples inputs;
  agree_on_error(job.comm, [&] {
    if (!standard && !asked.empty()) {
      InputFile file(path, "--input");
      text = {read_all(file, most_text), file.origin(), delimiter};
    }
    // As the samples are read: what data.header says of this input, else as the training file was.
    const std::string& says = run.config.data.header;
    const bool header = says == "auto" ? run.info.csv.header : says == "yes";
    if (!asked.empty()) ids = take_id_columns(text, asked, run.info.csv, header);
    const bool given = standard || !asked.empty();
    inputs = open_inputs(run.config, run.info, standard ? "standard input" : path, given ? &text : nullptr);
    require(ids.values.size() == ids.names.size() * static_cast<std::size_t>(inputs.samples->size()),
            "the id columns have other rows than the samples");
  });
  return inputs;
}

/// What an exported file says besides its tensors: how inputs become what the model sees, and its classes.
std::map<std::string, std::string> exported_metadata(const RunDirectory& run) {
  const std::string text = run.read_preprocessing();
  const DataInfo info = DataInfo::from_json(text, run.preprocessing());
  std::map<std::string, std::string> metadata{{"lockstep.preprocessing", nlohmann::json::parse(text).dump()}};
  if (!info.class_names.empty()) metadata["lockstep.class_names"] = nlohmann::json(info.class_names).dump();
  return metadata;
}

/// Warns where files that the run named hold other data now; a path that the user gives names data of their
/// own, unless they are a part of the training file.
void warn_of_other_data(const LoadedRun& run, const std::vector<DataContent>& contents,
                        const CommandLine& command, const Log& log) {
  if (!run.data_record) return;
  const std::vector<DataContent>& recorded = run.data_record->files;
  std::vector<DataContent> was, now;
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

/// How far the pass over the data is, for people; on rank 0, else null. Must not outlive the evaluator's use.
std::unique_ptr<Progress> show_progress(const LoadedRun& run, const Job& job) {
  if (!job.leader()) return nullptr;
  auto progress = std::make_unique<Progress>(std::cerr, Progress::for_stderr());
  run.evaluator->tell_progress(
      [p = progress.get()](std::int64_t done, std::int64_t all) { p->work("sample", done, all); });
  return progress;
}

}  // namespace

int evaluate_command(const CommandLine& command, Job& job) {
  LoadedRun run = load_run(command, job);
  const std::string split = option_or(command, "split", "test");
  const std::string output = option_or(command, "output", "");
  DataSets data;
  std::shared_ptr<const Dataset> chosen;
  std::unique_ptr<OutputFile> file;
  agree_on_error(job.comm, [&] {
    data = open_datasets(run.config, {split == "train", split == "validation", split == "test"}, &run.info);
    chosen = split == "train" ? data.train : split == "validation" ? data.validation : data.test;
    if (!chosen)
      throw ConfigError(fmt::format("--split {}: the run has no such data; give data.{} or data.{}_fraction",
                                    split, split, split));
    if (job.leader() && !output.empty())
      file = std::make_unique<OutputFile>("--output", output, files_read(run.config));
  });
  check_same_data(job.comm, data.contents);
  if (job.leader()) {
    warn_of_other_data(run, data.contents, command, job.log);
    data.notes.tell(job.log);
  }
  warn_of_inputs(*chosen, run, job);
  const std::unique_ptr<Progress> progress = show_progress(run, job);
  const Evaluation result =
      run.evaluator->run(chosen, run.info.normalizer, run.parameters, run.config.data.workers);
  if (progress) progress->clear();
  if (!result.finite())
    throw_on_all(job.comm, DivergenceError(fmt::format(
                               "{}: {}: there are no scores; look whether the data is of the kind that was "
                               "trained on",
                               split, nonfinite_text(result, *chosen))));
  agree_on_error(job.comm, [&] {
    if (!job.leader()) return;
    if (file) {
      file->append(evaluation_json(result, run.info,
                                   {run.config.run.dir, option_or(command, "weights", "last"), run.digest,
                                    split, chosen->describe()}));
      file->close();
    }
    std::cout << evaluation_text(result, run.info, split,
                                 file ? printable(output, 200) : "the report of --output FILE")
              << std::flush;
  });
  return static_cast<int>(ExitCode::done);
}

int predict_command(const CommandLine& command, Job& job) {
  LoadedRun run = load_run(command, job);
  const std::string output = option_or(command, "output", "");
  IdColumns ids;
  const InputSamples inputs = open_prediction_inputs(command, run, job, ids);
  check_same_data(job.comm, inputs.contents);
  if (job.leader()) inputs.notes.tell(job.log);
  std::unique_ptr<OutputFile> file;
  std::unique_ptr<PredictionRows> rows;
  agree_on_error(job.comm, [&] {
    rows = std::make_unique<PredictionRows>(run.info, prediction_format(output), std::move(ids));
    if (!job.leader() || output.empty()) return;
    std::error_code ignored;
    if (std::filesystem::equivalent(output, command.options.at("input"), ignored))
      throw ConfigError(
          fmt::format("--output {}: is the file of --input, which would be lost; name another", output));
    file = std::make_unique<OutputFile>("--output", output, files_read(run.config));
  });
  warn_of_inputs(*inputs.samples, run, job);
  // A failure of rank 0 alone is told when all ranks have come to the end.
  std::exception_ptr failure;
  const auto write = [&](const std::string& text) {
    if (failure) return;
    try {
      if (file)
        file->append(text);
      else
        std::cout << text;
    } catch (const Error&) {
      failure = std::current_exception();
    }
  };
  // Rows on a terminal are a sign of life themselves.
  const bool to_terminal = !file && isatty(STDOUT_FILENO) == 1;
  const std::unique_ptr<Progress> progress = to_terminal ? nullptr : show_progress(run, job);
  if (job.leader()) write(rows->head());
  run.evaluator->predict(
      inputs.samples, run.info.normalizer, run.parameters, run.config.data.workers,
      [&](std::int64_t index, std::span<const float> values) { write(rows->row(index, values)); });
  if (progress) progress->clear();
  agree_on_error(job.comm, [&] {
    if (failure) std::rethrow_exception(failure);
    if (!job.leader()) return;
    if (file) return file->close();
    if (!std::cout.flush()) throw InputError("standard output: the predictions could not be written");
  });
  return static_cast<int>(ExitCode::done);
}

int export_command(const CommandLine& command, const Log& log) {
  const RunDirectory run = RunDirectory::open(command.options.at("run"));
  std::string said;
  const TensorParts weights = open_weights(run, option_or(command, "weights", "last"), log, said);
  weights.refuse_nonfinite();
  const std::string& output = command.options.at("output");
  weights.write(replaceable_path("--output", output, data_files_of_run(run.path())), {},
                exported_metadata(run));
  std::cout << fmt::format("{}: {} from {}\n", printable(output, 200),
                           counted(static_cast<std::int64_t>(weights.tensors().size()), "tensor"),
                           printable(weights.name(), 200));
  return static_cast<int>(ExitCode::done);
}

}  // namespace lockstep
