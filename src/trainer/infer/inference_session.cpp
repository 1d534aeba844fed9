#include "trainer/infer/inference_session.h"

#include "core/error.h"
#include "core/flight_recorder.h"

namespace lockstep {

/// Ops that end are progress.
class InferenceSession::Ticker final : public GradientListener {
 public:
  explicit Ticker(FlightRecorder& recorder) : recorder_(recorder) {}
  void ready(Range) override {}
  void progress() override { recorder_.tick(); }

 private:
  FlightRecorder& recorder_;
};

InferenceSession::InferenceSession(const Graph& graph, const InferenceOptions& options,
                                   const ComputeDevice& device, Communicator& comm, LanePool& lanes)
    : width_(graph.shape_of(graph.output).elements()) {
  require(options.slice_rows >= 1 && options.slices >= 1, "InferenceSession: no rows or no slices");
  const FlightScope compiling(comm.recorder(), Activity::compile);
  if (comm.recorder() != nullptr) ticker_ = std::make_unique<Ticker>(*comm.recorder());
  ExecutorOptions executor;
  executor.slice_rows = options.slice_rows;
  executor.training = false;
  executor.slices = options.slices;
  executor.mine = options.mine;
  executor.plan_choice = options.plan_choice;
  executor_ = compile_on_all(device, graph, executor, comm, lanes);
  outputs_.resize(static_cast<std::size_t>(options.mine.size()));
  for (auto& output : outputs_) {
    output.resize(static_cast<std::size_t>(options.slice_rows * width_));
    output_views_.emplace_back(output);
  }
  results_.resize(outputs_.size());
  inputs_.results = results_;
  inputs_.listener = ticker_.get();
}

InferenceSession::~InferenceSession() = default;

void InferenceSession::use(std::span<const float> parameters) {
  inputs_.parameters = parameters;
  inputs_.parameters_changed = true;
}

void InferenceSession::run(std::span<const Batch> slices) {
  require(slices.size() == outputs_.size(), "InferenceSession: a slice for each of this rank's is needed");
  require(!inputs_.parameters.empty() || outputs_.empty(), "InferenceSession: no parameters are in use");
  inputs_.slices = slices;
  executor_->infer(inputs_, output_views_);
  inputs_.parameters_changed = false;
}

}  // namespace lockstep
