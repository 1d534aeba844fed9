#include "trainer/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "comm/gradient_sync.h"
#include "core/error.h"
#include "core/flight_recorder.h"
#include "trainer/data/loader.h"
#include "trainer/loss_log.h"

namespace lockstep {

std::int64_t largest(std::span<const float> values) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < values.size(); ++i)
    if (values[i] > values[best]) best = i;
  return static_cast<std::int64_t>(best);
}

/// Ops that end are progress.
class Evaluator::Ticker final : public GradientListener {
 public:
  explicit Ticker(FlightRecorder& recorder) : recorder_(recorder) {}
  void ready(Range) override {}
  void progress() override { recorder_.tick(); }

 private:
  FlightRecorder& recorder_;
};

Evaluator::Evaluator(const Graph& graph, std::int64_t batch, std::int64_t slices, Communicator& comm,
                     LanePool& lanes, std::vector<int> loader_cpus, const ComputeDevice& device,
                     const std::string& plan_choice)
    : batch_(batch),
      slices_(slices),
      width_(graph.shape_of(graph.output).elements()),
      loss_(graph.loss),
      comm_(comm),
      loader_cpus_(std::move(loader_cpus)),
      mine_(slices_of_rank(slices, comm.rank(), comm.size())) {
  require(batch >= 1 && slices >= 1 && batch % slices == 0, "Evaluator: the slices must divide the batch");
  const FlightScope compiling(comm.recorder(), Activity::compile);
  if (comm.recorder() != nullptr) ticker_ = std::make_unique<Ticker>(*comm.recorder());
  ExecutorOptions options;
  options.slice_rows = batch / slices;
  options.training = false;
  options.slices = slices;
  options.mine = mine_;
  options.plan_choice = plan_choice;
  executor_ = compile_alike(device, graph, options, comm, lanes);
  outputs_.resize(static_cast<std::size_t>(mine_.size()));
  for (auto& output : outputs_) {
    output.resize(static_cast<std::size_t>(options.slice_rows * width_));
    output_views_.emplace_back(output);
  }
  results_.resize(outputs_.size());
}

void Evaluator::count_confusion(const SliceBatch& batch, std::span<const float> outputs,
                                std::vector<std::int64_t>& confusion) const {
  const auto width = static_cast<std::size_t>(width_);
  for (std::int64_t r = 0; r < batch.valid; ++r) {
    const std::int64_t predicted = largest(outputs.subspan(static_cast<std::size_t>(r) * width, width));
    ++confusion[static_cast<std::size_t>(batch.labels[static_cast<std::size_t>(r)] * width_ + predicted)];
  }
}

Evaluator::~Evaluator() = default;

LoaderOptions Evaluator::loading(const std::shared_ptr<const Dataset>& data, const Normalizer& normalizer,
                                 int workers) const {
  LoaderOptions options;
  options.data = data;
  options.normalizer = normalizer;
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
  const bool classes = loss_ == LossKind::cross_entropy;
  if (classes) evaluation.confusion.assign(static_cast<std::size_t>(width_ * width_), 0);

  LossLog log(comm_, slices_, 64);
  StepSums total;
  auto flush = [&] {
    for (const StepSums& sums : log.flush()) {
      total.loss += sums.loss;
      total.correct += sums.correct;
      total.weight += sums.weight;
    }
  };
  StepInputs inputs;
  inputs.parameters = parameters;
  inputs.results = results_;
  inputs.listener = ticker_.get();
  for (std::int64_t b = 0; b < order.batches_per_epoch(); ++b) {
    inputs.slices = loader.next().slices;
    executor_->infer(inputs, output_views_);
    inputs.parameters_changed = false;
    if (classes)
      for (std::size_t s = 0; s < outputs_.size(); ++s)
        count_confusion(inputs.slices[s], outputs_[s], evaluation.confusion);
    log.record(b, results_);
    if (log.full()) flush();
    if (tell_) tell_(std::min((b + 1) * batch_, data->size()), data->size());
  }
  flush();
  require(total.weight == static_cast<double>(data->size()),
          "evaluation must count every sample exactly once");
  evaluation.loss = total.loss / total.weight;
  if (std::isnan(evaluation.loss)) evaluation.loss = std::numeric_limits<double>::quiet_NaN();  // no "-nan"
  evaluation.accuracy = total.correct / total.weight;
  if (classes && comm_.size() > 1) {
    std::vector<std::int64_t> all(evaluation.confusion.size() * static_cast<std::size_t>(comm_.size()));
    comm_.all_gather(std::as_bytes(std::span(evaluation.confusion)), std::as_writable_bytes(std::span(all)));
    for (std::size_t i = 0; i < evaluation.confusion.size(); ++i) {
      evaluation.confusion[i] = 0;
      for (std::size_t r = 0; r < static_cast<std::size_t>(comm_.size()); ++r)
        evaluation.confusion[i] += all[r * evaluation.confusion.size() + i];
    }
  }
  return evaluation;
}

void Evaluator::predict(const std::shared_ptr<const Dataset>& data, const Normalizer& normalizer,
                        std::span<const float> parameters, int workers,
                        const std::function<void(std::int64_t index, std::span<const float> output)>& emit) {
  const FlightScope scope(comm_.recorder(), Activity::evaluate);
  const EpochOrder order(data->size(), batch_, slices_, std::nullopt);
  LoaderOptions options = loading(data, normalizer, workers);
  options.answers = false;
  Loader loader(order, std::move(options));
  const auto per_slice = static_cast<std::size_t>(batch_ / slices_ * width_);
  std::size_t longest = 0;
  for (int r = 0; r < comm_.size(); ++r)
    longest = std::max(longest, static_cast<std::size_t>(slices_of_rank(slices_, r, comm_.size()).size()));
  std::vector<float> mine(longest * per_slice);
  std::vector<float> all(mine.size() * static_cast<std::size_t>(comm_.size()));
  StepInputs inputs;
  inputs.parameters = parameters;
  inputs.results = results_;
  inputs.listener = ticker_.get();
  for (std::int64_t b = 0; b < order.batches_per_epoch(); ++b) {
    const LoadedBatch& batch = loader.next();
    inputs.slices = batch.slices;
    executor_->infer(inputs, output_views_);
    inputs.parameters_changed = false;
    for (std::size_t s = 0; s < outputs_.size(); ++s)
      std::copy(outputs_[s].begin(), outputs_[s].end(),
                mine.begin() + static_cast<std::ptrdiff_t>(s * per_slice));
    comm_.all_gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)));
    if (tell_) tell_(std::min((b + 1) * batch_, data->size()), data->size());
    if (comm_.rank() != 0) continue;
    const FlightScope writing(comm_.recorder(), Activity::output);
    for (int r = 0; r < comm_.size(); ++r) {
      const Node held = slices_of_rank(slices_, r, comm_.size());
      for (std::int64_t s = held.begin; s < held.end; ++s) {
        const SliceRows rows = order.rows_of(batch.range, s);
        const float* from = all.data() + static_cast<std::size_t>(r) * mine.size() +
                            static_cast<std::size_t>(s - held.begin) * per_slice;
        for (std::int64_t row = 0; row < rows.valid; ++row)
          emit(batch.range.first + rows.first + row,
               std::span(from + row * width_, static_cast<std::size_t>(width_)));
      }
    }
  }
}

}  // namespace lockstep
