#include "trainer/run/run_files.h"

#include <filesystem>
#include <fmt/format.h>
#include <iostream>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/flight_recorder.h"
#include "core/printable.h"
#include "trainer/evaluate/best.h"
#include "trainer/evaluate/evaluation_report.h"
#include "trainer/run/plan_report.h"
#include "trainer/step/model_state.h"

namespace lockstep {

RunFiles::RunFiles(RunParts& parts, RunSaves& saves, RunReporter& reporter)
    : run_(parts), saves_(saves), reporter_(reporter) {}

void RunFiles::begin() {
  const auto mine = saves_.while_mine();
  run_.data.write_new(mine, [&] {
    write_file_atomic(run_.directory.config(), resolved_ini(run_.config()), mine);
    reporter_.open_metrics(MetricsFile::create(run_.directory.metrics(), reporter_.on_lost_metrics(), mine));
  });
}

void RunFiles::resume() {
  agree_on_error(run_.job.comm, [&] {
    if (!run_.job.leader()) return;
    const RunDirectory& directory = run_.directory;
    const auto mine = saves_.while_mine();
    directory.remove_temporaries();
    // A full disk need not stop what changes nothing.
    const std::string config = resolved_ini(run_.config());
    if (!run_.finished() && read_file(directory.config()) != config)
      write_file_atomic(directory.config(), config, mine);
    run_.data.write_record(mine);
    reporter_.open_metrics(
        run_.finished()
            ? MetricsFile::add_to(directory.metrics(), reporter_.on_lost_metrics(), mine)
            : MetricsFile::resume(directory.metrics(), run_.course.steps, reporter_.on_lost_metrics(), mine));
    if (!run_.data.changed().empty()) reporter_.tell_data_change(run_.data.changed());
    if (run_.finished()) return;
    mine();
    // The weights of an earlier end would pass for this run's until it ends; the checkpoint has them all the
    // same.
    for (const std::string& file : {directory.model(), directory.best(), directory.test_report()}) {
      std::error_code error;
      std::filesystem::remove(file, error);
      if (error) throw InputError(fmt::format("cannot remove '{}': {}", file, error.message()));
    }
  });
}

void RunFiles::begin_metrics_anew() {
  agree_on_error(run_.job.comm, [&] {
    if (run_.job.leader())
      reporter_.open_metrics(MetricsFile::resume(run_.directory.metrics(), 0, reporter_.on_lost_metrics()));
  });
}

void RunFiles::write_model() {
  const FlightScope scope(run_.job.comm.recorder(), Activity::save);
  agree_on_error(run_.job.comm, [&] {
    if (!run_.job.leader()) return;
    const std::vector<PlainTensor> model = export_model(run_.step.executor(), run_.step.parameters());
    const std::vector<TensorView> views = views_of(model);
    write_safetensors(
        run_.directory.model(), views,
        with_digest(model_metadata(run_.setup.graph, run_.course.steps, run_.course.any_fast), views),
        saves_.while_mine());
  });
}

void RunFiles::write_best() {
  const FlightScope scope(run_.job.comm.recorder(), Activity::save);
  const BestValidation& best = run_.course.best;
  agree_on_error(run_.job.comm, [&] {
    const Log& log = run_.job.log;
    if (run_.job.leader() && best.step < 0 && run_.data.sets().validation)
      log.warning("no validation gave a finite loss: there are no best weights");
    if (!run_.job.leader() || best.step < 0) return;
    std::vector<std::string> passed_over;
    const auto found = saves_.checkpoints().store().find_best(best.step, passed_over);
    for (const std::string& reason : passed_over) log.warning("{}", reason);
    if (found) {
      load_checkpoint(found->path).model.write(run_.directory.best(), saves_.while_mine());
      const std::string metric = best_metric_name(run_.config(), run_.data.info().classes > 0);
      reporter_.print(fmt::format("best weights: of step {}", found->step) +
                      (found->step == best.step ? ", validation " + best_text(best, metric) : ""));
    } else {
      log.warning(
          "of the best weights, those of step {}, there is no whole copy: best.safetensors is "
          "not written",
          best.step);
    }
  });
}

int RunFiles::report_test() {
  const DataSets& data = run_.data.sets();
  const Evaluation result =
      run_.evaluator.run(data.test, data.info.normalizer, run_.step.parameters(), run_.config().data.workers);
  const auto code = result.finite() ? ExitCode::done : ExitCode::diverged;
  if (!run_.job.leader()) return static_cast<int>(code);
  MetricsRecord record("test", run_.course.steps);
  record.add("samples", result.samples).add("loss", result.loss);
  if (!result.finite()) {
    record.add("nonfinite", result.nonfinite);
    run_.job.log.error("test: {}: the weights are saved, and there are no scores",
                       nonfinite_text(result, *data.test));
  } else if (data.info.classes > 0) {
    record.add("accuracy", result.accuracy);
  } else {
    const TargetScore score = mean_of(result.targets);
    record.add("mae", score.mae).add("rmse", score.rmse).add("r2", score.r2);
  }
  reporter_.tell_test(record);
  if (!result.finite()) return static_cast<int>(code);
  write_test_report(result);
  std::cout << evaluation_text(result, data.info, "test", printable(run_.directory.test_report(), 200))
            << std::flush;
  return static_cast<int>(code);
}

void RunFiles::write_test_report(const Evaluation& result) {
  try {
    const auto weights = weights_of_run(run_.directory.model());
    const std::string digest = weights ? TensorParts(*weights).digest() : "";
    write_file_atomic(
        run_.directory.test_report(),
        evaluation_json(result, run_.data.info(),
                        {run_.directory.path(), "last", digest, "test", run_.data.sets().test->describe()}),
        saves_.while_mine());
  } catch (const InputError& e) {
    run_.job.log.warning("the report of the test is not written, all else is: {}", e.what());
  }
}

void RunFiles::write_timeline() {
  if (!run_.timeline.enabled()) return;
  agree_on_error(run_.job.comm, [&] { run_.timeline.write(run_.directory.timeline(run_.job.comm.rank())); });
}

}  // namespace lockstep
