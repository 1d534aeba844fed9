#include "trainer/train_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/flight_recorder.h"

namespace lockstep {

/// Hands what the executor has finished to the synchroniser.
class TrainStep::Listener final : public GradientListener {
 public:
  Listener(GradientSync& sync, const TrainStep& step) : sync_(sync), step_(step) {}
  void ready(Range range) override {
    if (step_.options_.before_ready) step_.options_.before_ready(range, step_.roots_);
    sync_.ready(range);
  }
  void progress() override {
    if (step_.recorder_ != nullptr) step_.recorder_->tick();
    sync_.progress();
  }

 private:
  GradientSync& sync_;
  const TrainStep& step_;
};

TrainStep::TrainStep(const Graph& graph, const TrainStepOptions& options, Communicator& comm, LanePool& lanes,
                     Timeline* timeline)
    : options_(options),
      comm_(comm),
      lanes_(lanes),
      timeline_(timeline),
      recorder_(comm.recorder()),
      mine_(slices_of_rank(options.sync.slices, comm.rank(), comm.size())) {
  check(graph, options.sync.slices, comm.size());
  const FlightScope compiling(recorder_, Activity::compile);
  ExecutorOptions executor_options;
  executor_options.slice_rows = options.slice_rows;
  executor_options.training = true;
  executor_options.slices = options.sync.slices;
  executor_options.mine = mine_;
  executor_ = compile_cpu(graph, executor_options, lanes, timeline);
  const FlatLayout& layout = executor_->layout();
  sync_ = GradientSync::create(comm, layout.elements, options.sync, timeline);
  optimizer_ = std::make_unique<Optimizer>(options.optimizer, layout, sync_->shard());
  listener_ = std::make_unique<Listener>(*sync_, *this);
  require(sync_->subtrees() == executor_->schedule().roots,
          "the synchroniser and the schedule must agree on subtrees");
  for (std::size_t i = 0; i < sync_->subtrees().size(); ++i) roots_.push_back(sync_->slot(i));

  if (options.clip_norm <= 0) return;
  const std::int64_t blocks = (layout.elements + block_elements - 1) / block_elements;
  squares_.assign(static_cast<std::size_t>(blocks), 0.0);
  if (!options.sync.sharded || comm.size() == 1) return;  // this rank holds every total
  std::string mine;
  for (const Range& range : sync_->shard())
    for (std::int64_t e = range.begin; e < range.end; e += block_elements)
      mine += std::to_string(e / block_elements) + " ";
  std::size_t longest = 0;
  for (const std::string& text : comm.all_gather_text(mine)) {
    std::vector<std::int64_t> list;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t space = text.find(' ', at);
      list.push_back(std::stoll(text.substr(at, space - at)));
      at = space + 1;
    }
    longest = std::max(longest, list.size());
    blocks_.push_back(std::move(list));
  }
  squares_mine_.assign(longest, 0.0);
  squares_all_.assign(longest * static_cast<std::size_t>(comm.size()), 0.0);
}

void TrainStep::check(const Graph& graph, std::int64_t slices, int ranks) {
  if (graph.parameters.empty())
    throw ConfigError("model: it has no parameters, so there is nothing to train; add a conv or dense layer");
  if (ranks > slices)
    throw ConfigError(
        "there are more ranks (" + std::to_string(ranks) + ") than slices (" + std::to_string(slices) +
        "): start fewer ranks, or give train.slices a multiple that divides train.global_batch");
}

TrainStep::~TrainStep() = default;

double TrainStep::gather_gradient_norm(double inverse_count) {
  lanes_.run([&](int lane) { optimizer_->sum_squares(sync_->totals(), squares_, lane, lanes_.size()); });
  if (!blocks_.empty()) {
    const auto& own = blocks_[static_cast<std::size_t>(comm_.rank())];
    for (std::size_t i = 0; i < own.size(); ++i)
      squares_mine_[i] = squares_[static_cast<std::size_t>(own[i])];
    comm_.all_gather(std::as_bytes(std::span(squares_mine_)),
                     std::as_writable_bytes(std::span(squares_all_)));
    for (std::size_t r = 0; r < blocks_.size(); ++r)
      for (std::size_t i = 0; i < blocks_[r].size(); ++i)
        squares_[static_cast<std::size_t>(blocks_[r][i])] = squares_all_[r * squares_mine_.size() + i];
  }
  return lockstep::gradient_norm(squares_, inverse_count);
}

StepOutcome TrainStep::update(std::int64_t count, std::int64_t step, double lr) {
  const FlightScope scope(recorder_, Activity::optimizer);
  UpdateScalars scalars;
  scalars.lr = lr;
  scalars.inverse_count = 1.0 / static_cast<double>(count);
  scalars.step = step;
  StepOutcome outcome;
  outcome.lr = lr;
  if (options_.clip_norm > 0) {
    outcome.gradient_norm = gather_gradient_norm(scalars.inverse_count);
    if (!std::isfinite(outcome.gradient_norm))
      throw DivergenceError("step " + std::to_string(step) + ": the gradient norm is " +
                            (std::isnan(outcome.gradient_norm) ? "not a number" : "infinite") +
                            "; the parameters were not changed by this step. Lower optimizer.lr or lengthen "
                            "schedule.warmup_steps");
    scalars.clip_scale = clip_scale(outcome.gradient_norm, options_.clip_norm);
  }
  optimizer_->begin_step(scalars);
  lanes_.run(
      [&](int lane) { optimizer_->update_share(sync_->totals(), sync_->parameters(), lane, lanes_.size()); });
  return outcome;
}

StepOutcome TrainStep::run(std::span<const SliceBatch> batches, std::int64_t count, std::int64_t step,
                           double lr, std::span<SliceResult> results) {
  require(count > 0, "TrainStep::run: a batch without samples");
  sync_->begin_step(step);
  StepInputs inputs;
  inputs.seed = options_.seed;
  inputs.step = static_cast<std::uint64_t>(step);
  inputs.parameters = sync_->parameters();
  inputs.slices = batches;
  inputs.roots = roots_;
  inputs.results = results;
  inputs.listener = listener_.get();
  {
    const FlightScope scope(recorder_, Activity::compute);
    executor_->train(inputs);
  }
  sync_->finish();

  const std::int64_t begin = timeline_ != nullptr ? timeline_->now() : 0;
  const StepOutcome outcome = update(count, step, lr);
  const std::int64_t updated = timeline_ != nullptr ? timeline_->now() : 0;
  if (comm_.size() > 1) {
    const FlightScope scope(recorder_, Activity::gather_parameters);
    sync_->publish_parameters();
    lanes_.run([&](int lane) { sync_->gather_parameters(lane, lanes_.size()); });
  }
  if (timeline_ != nullptr && timeline_->enabled()) {
    timeline_->record(EventKind::optimizer, 0, step, 0, begin, updated);
    timeline_->record(EventKind::gather, 0, step, 0, updated, timeline_->now());
  }
  return outcome;
}

}  // namespace lockstep
