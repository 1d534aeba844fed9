#pragma once

#include <string>

#include "trainer/evaluate/evaluation.h"
#include "trainer/run/run_parts.h"
#include "trainer/run/run_reporter.h"
#include "trainer/run/run_saves.h"

namespace lockstep {

/// The files of a run directory besides checkpoints: what a run begins with, goes on with and leaves. Calls
/// are by all ranks; rank 0 writes.
class RunFiles {
 public:
  /// References must outlive this object.
  RunFiles(RunParts& parts, RunSaves& saves, RunReporter& reporter);

  /// Those of a new run: preprocessing.json, data.json, config.resolved.ini, metrics.jsonl.
  void begin();
  /// Brings config, metrics and weight files to the step that was restored.
  void resume();
  /// After a rollback to the beginning: metrics without the lines of the steps that are taken again.
  void begin_metrics_anew();

  /// model.safetensors.
  void write_model();
  /// best.safetensors, from the checkpoint of the best step.
  void write_best();
  /// Evaluates the test split, and tells of it in metrics.jsonl, in test.json and on standard output. Returns
  /// the exit code: that of a divergence where the model gives no finite scores.
  int report_test();
  void write_timeline();

 private:
  /// test.json: all that the text of the test leaves out. A full disk is a warning.
  void write_test_report(const Evaluation& result);

  RunParts& run_;
  RunSaves& saves_;
  RunReporter& reporter_;
};

}  // namespace lockstep
