#include "trainer/evaluate/evaluation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <optional>

#include "comm/sync/gradient_sync.h"
#include "core/counted.h"
#include "core/error.h"
#include "core/flight_recorder.h"
#include "core/numerics/finite.h"
#include "data/loader.h"
#include "data/normalized_field.h"
#include "model/graph/op_table.h"
#include "trainer/guard/loss_log.h"

namespace lockstep {

std::int64_t largest(std::span<const float> values) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < values.size(); ++i)
    if (values[i] > values[best]) best = i;
  return static_cast<std::int64_t>(best);
}

std::string nonfinite_text(const Evaluation& evaluation, const Dataset& data) {
  if (evaluation.nonfinite == 0)
    return fmt::format("the loss over {} is NaN or infinite", counted(evaluation.samples, "sample"));
  return fmt::format("the model gives NaN or infinity for {} of {}, the first is {}", evaluation.nonfinite,
                     counted(evaluation.samples, "sample"), data.where(evaluation.first_nonfinite));
}

namespace {

void count_predictions(std::span<const Batch> slices, std::span<const std::vector<float>> outputs,
                       std::size_t label, ConfusionMatrix& confusion) {
  const auto width = static_cast<std::size_t>(confusion.classes());
  for (std::size_t s = 0; s < outputs.size(); ++s)
    for (std::size_t row = 0; row < static_cast<std::size_t>(slices[s].valid); ++row)
      confusion.add(slices[s].field(label).as<std::int32_t>()[row],
                    largest(std::span(outputs[s]).subspan(row * width, width)));
}

InferenceOptions options_of(std::int64_t batch, std::int64_t slices, Node mine,
                            const std::string& plan_choice) {
  require(batch >= 1 && slices >= 1 && batch % slices == 0, "Evaluator: the slices must divide the batch");
  return {batch / slices, slices, mine, plan_choice};
}

/// (all) What each rank has found becomes what all have found.
void sum_nonfinite(Communicator& comm, Evaluation& found) {
  const std::array<std::int64_t, 2> mine{found.nonfinite, found.first_nonfinite};
  std::vector<std::array<std::int64_t, 2>> all(static_cast<std::size_t>(comm.size()));
  comm.all_gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)));
  found.nonfinite = 0;
  found.first_nonfinite = -1;
  for (const auto& [count, first] : all) {
    found.nonfinite += count;
    if (first >= 0 && (found.first_nonfinite < 0 || first < found.first_nonfinite))
      found.first_nonfinite = first;
  }
}

}  // namespace

Evaluator::Evaluator(const Graph& graph, std::int64_t batch, std::int64_t slices, Communicator& comm,
                     LanePool& lanes, std::vector<int> loader_cpus, const ComputeDevice& device,
                     const std::string& plan_choice)
    : batch_(batch),
      slices_(slices),
      labels_(has_labels(graph) && graph.shape_of(graph.output).rank() == 1),
      targets_(!has_labels(graph)),
      counts_rows_(!weighs_by_label(graph)),
      fields_(graph.fields),
      answer_field_(static_cast<std::size_t>(graph.loss.fields.at(0))),
      comm_(comm),
      loader_cpus_(std::move(loader_cpus)),
      mine_(slices_of_rank(slices, comm.rank(), comm.size())),
      session_(graph, options_of(batch, slices, mine_, plan_choice), device, comm, lanes) {}

bool Evaluator::check_outputs(std::span<const Batch> slices, Evaluation& found) const {
  const auto width = static_cast<std::size_t>(session_.width());
  bool all = true;
  for (std::size_t s = 0; s < session_.outputs().size(); ++s) {
    const std::span<const float> outputs(session_.outputs()[s]);
    const auto valid = static_cast<std::size_t>(slices[s].valid);
    if (all_finite(outputs.first(valid * width))) continue;
    all = false;
    for (std::size_t row = 0; row < valid; ++row) {
      if (all_finite(outputs.subspan(row * width, width))) continue;
      const std::int64_t sample = slices[s].samples[row];
      ++found.nonfinite;
      if (found.first_nonfinite < 0 || sample < found.first_nonfinite) found.first_nonfinite = sample;
    }
  }
  return all;
}

LoaderOptions Evaluator::loading(const std::shared_ptr<const Dataset>& data, const Normalizer& normalizer,
                                 int workers) const {
  LoaderOptions options;
  options.data = data;
  options.fields = batch_fields(fields_, *data, normalizer).readers;
  options.mine = mine_;
  options.workers = workers;
  options.cpus = loader_cpus_;
  options.recorder = comm_.recorder();
  return options;
}

Evaluation Evaluator::run(const std::shared_ptr<const Dataset>& data, const Normalizer& normalizer,
                          std::span<const float> parameters, int workers) {
  const FlightScope scope(comm_.recorder(), Activity::evaluate);
  Evaluation evaluation;
  evaluation.samples = data->size();
  const EpochOrder order(data->size(), batch_, slices_, std::nullopt);
  Loader loader(order, loading(data, normalizer, workers));
  std::optional<ConfusionMatrix> confusion;
  std::optional<RegressionScores> regression;
  if (labels_)
    confusion.emplace(session_.width());
  else if (targets_)
    regression.emplace(comm_, slices_, *data, normalizer);

  LossLog log(comm_, slices_, 64);
  StepSums total;
  auto flush = [&] {
    for (const StepSums& sums : log.flush()) {
      total.loss += sums.loss;
      total.correct += sums.correct;
      total.weight += sums.weight;
      total.counted += sums.counted;
    }
  };
  session_.use(parameters);
  if (tell_) tell_(0, data->size());
  for (std::int64_t b = 0; b < order.batches_per_epoch(); ++b) {
    const std::span<const Batch> rows = loader.next().slices;
    session_.run(rows);
    const bool finite = check_outputs(rows, evaluation);
    if (confusion && finite) count_predictions(rows, session_.outputs(), answer_field_, *confusion);
    if (regression) regression->add(rows, session_.outputs());
    log.record(b, session_.results());
    if (log.full()) flush();
    if (tell_) tell_(std::min((b + 1) * batch_, data->size()), data->size());
  }
  flush();
  require(counts_rows_ ? total.weight == static_cast<double>(data->size()) : total.weight >= 0,
          "evaluation must count every sample exactly once");
  sum_nonfinite(comm_, evaluation);
  evaluation.loss = total.weight > 0 ? total.loss / total.weight : 0;
  evaluation.accuracy = total.counted > 0 ? total.correct / total.counted : 0;
  if (confusion) evaluation.confusion = sum_over_ranks(comm_, *confusion).cells();
  if (regression) evaluation.targets = regression->scores();
  if (evaluation.nonfinite > 0 || !evaluation.finite()) {
    evaluation.loss = evaluation.accuracy = std::numeric_limits<double>::quiet_NaN();
    evaluation.confusion.clear();
    evaluation.targets.clear();
  }
  return evaluation;
}

void Evaluator::predict(const std::shared_ptr<const Dataset>& data, const Normalizer& normalizer,
                        std::span<const float> parameters, int workers,
                        const std::function<void(std::int64_t index, std::span<const float> output)>& emit) {
  const FlightScope scope(comm_.recorder(), Activity::evaluate);
  const EpochOrder order(data->size(), batch_, slices_, std::nullopt);
  LoaderOptions options = loading(data, normalizer, workers);
  options.fields[answer_field_] = nullptr;
  Loader loader(order, std::move(options));
  const std::int64_t width = session_.width();
  const auto per_slice = static_cast<std::size_t>(batch_ / slices_ * width);
  std::size_t longest = 0;
  for (int r = 0; r < comm_.size(); ++r)
    longest = std::max(longest, static_cast<std::size_t>(slices_of_rank(slices_, r, comm_.size()).size()));
  std::vector<float> mine(longest * per_slice);
  std::vector<float> all(mine.size() * static_cast<std::size_t>(comm_.size()));
  session_.use(parameters);
  if (tell_) tell_(0, data->size());
  for (std::int64_t b = 0; b < order.batches_per_epoch(); ++b) {
    const LoadedBatch& batch = loader.next();
    session_.run(batch.slices);
    for (std::size_t s = 0; s < session_.outputs().size(); ++s)
      std::copy(session_.outputs()[s].begin(), session_.outputs()[s].end(),
                mine.begin() + static_cast<std::ptrdiff_t>(s * per_slice));
    comm_.all_gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)));
    if (tell_) tell_(std::min((b + 1) * batch_, data->size()), data->size());
    // Every rank holds all outputs, so all know of what is wrong with them.
    const bool finite = all_finite(all);
    if (comm_.rank() != 0 && finite) continue;
    const FlightScope writing(comm_.recorder(), Activity::output);
    for (int r = 0; r < comm_.size(); ++r) {
      const Node held = slices_of_rank(slices_, r, comm_.size());
      for (std::int64_t s = held.begin; s < held.end; ++s) {
        const SliceRows rows = order.rows_of(batch.range, s);
        const float* from = all.data() + static_cast<std::size_t>(r) * mine.size() +
                            static_cast<std::size_t>(s - held.begin) * per_slice;
        for (std::int64_t row = 0; row < rows.valid; ++row) {
          const std::span<const float> output(from + row * width, static_cast<std::size_t>(width));
          const std::int64_t index = batch.range.first + rows.first + row;
          if (!finite && !all_finite(output))
            throw_on_all(comm_,
                         DivergenceError(fmt::format(
                             "{}: the model gives NaN or infinity for this sample, which is no "
                             "prediction: look whether its values are of the kind that was trained on, "
                             "and repair it or leave it out",
                             data->where(index))));
          if (comm_.rank() == 0) emit(index, output);
        }
      }
    }
  }
}

}  // namespace lockstep
