#pragma once

#include <string>

#include "data/readers/data_info.h"
#include "trainer/evaluate/evaluation.h"

namespace lockstep {

/// Where an evaluation comes from, for its report.
struct EvaluationSource {
  std::string run;
  std::string weights;  ///< last, best
  std::string digest;   ///< of the weights, as `lockstep digest` prints it
  std::string split;    ///< test, validation, train
  std::string data;     ///< what the samples are
};

/// For the terminal. Classification: loss, accuracy, the table of precision, recall and F1, and the confusion
/// matrix; `elsewhere` says what holds the part of a long report that is left out. Regression: loss, MAE,
/// RMSE and R^2, of several targets a row each. Of a finite evaluation.
std::string evaluation_text(const Evaluation& evaluation, const DataInfo& info, const std::string& split,
                            const std::string& elsewhere);

/// All of it as one JSON object, with a newline behind it: the members of `source`, "samples", "loss", and
/// for classification those of report_json(), for regression "mae", "rmse", "r2", "scaled_targets" and
/// "targets". Of a finite evaluation.
std::string evaluation_json(const Evaluation& evaluation, const DataInfo& info,
                            const EvaluationSource& source);

}  // namespace lockstep
