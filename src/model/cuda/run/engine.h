#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/cuda/library/runner.h"
#include "model/cuda/plan/options.h"
#include "model/cuda/plan/plan.h"
#include "model/cuda/plan/step_program.h"
#include "model/cuda/run/slice_staging.h"
#include "model/cuda/tuning/value_inspector.h"
#include "model/graph/op_table.h"
#include "model/plan/executor.h"
#include "model/plan/op_report.h"

// The executor around plan, step program and runner: everything that a GPU and the host that plays one in
// tests have in common, which is all but memory, streams and libraries. What a Machine must have, besides
// what runner.h asks for:
//   template <class T> void prepare(const Plan&);    choose and make the libraries' plans
//   std::byte* allocate(bytes);                       zeroed, aligned, the machine's own
//   std::byte* allocate_pinned(bytes);                the same, in the host's memory
//   std::byte* allocate_arena(bytes);                 any content
//   void copy_in(void* device, const void* pinned, bytes, Lane);     enqueued
//   void copy_out(void* pinned, const void* device, bytes, Lane);    enqueued
//   void make_events(int);
//   void record(int, Lane);
//   void wait(int, Lane);                             a lane waits
//   void host_wait(int);
//   bool reached(int);
//   void run(std::uint64_t key, Body body);           enqueue what it does, as a graph where that is on
//   void forget();                                    drop what was captured
//   void finish();                                    the host waits for the compute stream
//   std::string implementation(const Command&) const;
//   std::string library() const;
//   std::string plan_choice() const;
//   std::size_t workspace_bytes() const;

namespace lockstep::cuda {

/// Segments of about 1 Mi elements (4 MiB): what is announced at once.
inline constexpr std::int64_t default_segment_elements = std::int64_t{1} << 20;

template <class Machine>
class Engine final : public Executor {
 public:
  Engine(const lockstep::Graph& graph, const ExecutorOptions& options, const CudaOptions& cuda,
         std::unique_ptr<Machine> machine, std::int64_t segment_elements = default_segment_elements)
      : graph_(graph),
        options_(options),
        cuda_(cuda),
        machine_(std::move(machine)),
        plan_(make_plan(graph_, options.slice_rows, options.training, cuda.precision, segment_elements,
                        cuda.fuse)),
        schedule_(make_slice_schedule(options.slices, options.mine, 1)),
        programs_(make_programs(schedule_, plan_, shape_of(options))),
        staging_(plan_, options.transforms) {
    require(options.classes.empty(), "executor: a GPU takes no length classes yet");
    for (const FieldTransform& transform : options.transforms)
      require(!transform.any() || graph_.shape_of(graph_.inputs[0]).rank() == 3,
              "executor: only images are transformed here");
    Machine& m = *machine_;
    with_type([&](auto type) { m.template prepare<decltype(type)>(plan_); });
    const StepProgram& program = programs_.front();
    first_staged_event_ = program.events;
    m.make_events(program.events + staging_buffers);
    arena_ = m.allocate_arena(plan_.arena_bytes);
    for (int b = 0; b < program.input_buffers; ++b) {
      inputs_.push_back(m.allocate(staging_.bytes()));
      results_.push_back(m.allocate(sizeof(LossSums)));
      m.record(consumed_event(b), Lane::compute);  // nobody reads it yet
    }
    for (int s = 0; s < staging_buffers; ++s) {
      staged_.push_back(m.allocate_pinned(staging_.bytes()));
      m.record(staged_event(s), Lane::upload);
    }
    const auto mine = static_cast<std::size_t>(options.mine.size());
    const std::size_t kept = std::max<std::size_t>(mine * static_cast<std::size_t>(options.places), 1);
    results_out_ = reinterpret_cast<LossSums*>(m.allocate_pinned(kept * sizeof(LossSums)));
    counted_.resize(kept);
    const auto flat = static_cast<std::size_t>(plan_.layout.elements);
    if (narrow_is_copy()) narrow_ = m.allocate(flat * bytes_of(plan_.precision));
    if (!options.device_buffers) {
      parameters_ = reinterpret_cast<float*>(m.allocate(flat * sizeof(float)));
      parameters_in_ = reinterpret_cast<float*>(m.allocate_pinned(flat * sizeof(float)));
    }
    const std::size_t roots = schedule_.roots.size();
    if (plan_.training) {
      slots_.resize(static_cast<std::size_t>(schedule_.slots), nullptr);
      for (std::size_t s = options.device_buffers ? roots : 0; s < slots_.size(); ++s)
        slots_[s] = reinterpret_cast<float*>(m.allocate(flat * sizeof(float)));
      private_slots_ = slots_.size() - roots;
      if (options.device_buffers)
        loss_watch_ = reinterpret_cast<float*>(m.allocate(sizeof(float)));
      else
        for (std::size_t r = 0; r < roots; ++r)
          roots_out_.push_back(reinterpret_cast<float*>(m.allocate_pinned(flat * sizeof(float))));
    } else {
      outputs_out_ = reinterpret_cast<float*>(
          m.allocate_pinned(std::max<std::size_t>(mine, 1) * output_elements() * sizeof(float)));
    }
  }

  const FlatLayout& layout() const override { return plan_.layout; }
  const SliceSchedule& schedule() const override { return schedule_; }
  std::string plan_choice() const override { return machine_->plan_choice(); }
  const Plan& plan() const { return plan_; }
  Machine& machine() { return *machine_; }

  PlanReport report() const override {
    PlanReport report;
    for (const PlannedOp& op : plan_.ops) {
      OpReport row = report_of(graph_, op.nodes, op.output);
      row.kernel = machine_->implementation(plan_.forward[static_cast<std::size_t>(op.first_command)]);
      report.ops.push_back(std::move(row));
    }
    report.arena_bytes = plan_.arena_bytes;
    report.scratch_bytes = machine_->workspace_bytes();
    if (narrow_is_copy())
      report.prepared_bytes = static_cast<std::size_t>(plan_.layout.elements) * bytes_of(plan_.precision);
    report.gradient_bytes = private_slots_ * static_cast<std::size_t>(plan_.layout.elements) * sizeof(float);
    return report;
  }

  std::string fingerprint() const override { return machine_->library() + "\n" + machine_->plan_choice(); }

  void train(const StepInputs& inputs) override {
    require(plan_.training, "executor: it was compiled for inference");
    require(inputs.roots.size() == schedule_.roots.size(), "executor: one slot per subtree");
    step(inputs, {});
  }
  void give_results(int place, std::span<SliceResult> results) override {
    const std::size_t first = place_of(place, 0);
    for (std::size_t i = 0; i < results.size(); ++i) {
      const Counted& counted = counted_[first + i];
      SliceResult result;
      result.weight = static_cast<double>(counted.answered ? 0 : counted.valid);
      if (counted.valid > 0 && counted.answered) {
        result.loss = results_out_[first + i].loss;
        result.correct = results_out_[first + i].correct;
        result.weight = results_out_[first + i].weight;
        result.counted = results_out_[first + i].counted;
      }
      results[i] = result;
    }
  }
  void infer(const StepInputs& inputs, std::span<const std::span<float>> outputs) override {
    require(!plan_.training, "executor: it was compiled for training");
    step(inputs, outputs);
  }

  void export_plain(const FlatSegment& segment, std::span<const float> stored,
                    std::span<float> plain) const override {
    if (segment.kind == FlatSegment::Kind::parameter && segment.shape.rank() == 4)
      weights_to_plain(segment.shape, stored, plain);
    else
      std::copy_n(stored.begin(), plain.size(), plain.begin());
  }
  void import_plain(const FlatSegment& segment, std::span<const float> plain,
                    std::span<float> stored) const override {
    if (segment.kind == FlatSegment::Kind::parameter && segment.shape.rank() == 4)
      weights_to_stored(segment.shape, plain, stored);
    else
      std::copy(plain.begin(), plain.end(), stored.begin());
  }

 private:
  /// What the host keeps of a slice of a step until its results are asked for.
  struct Counted {
    std::int64_t valid = 0;
    bool answered = false;
  };
  static constexpr int staging_buffers = 2;

  static StepShape shape_of(const ExecutorOptions& options) {
    if (!options.device_buffers) return StepShape::staged;
    return options.whole_step ? StepShape::whole : StepShape::resident;
  }
  static std::vector<StepProgram> make_programs(const SliceSchedule& schedule, const Plan& plan,
                                                StepShape shape) {
    std::vector<StepProgram> programs{make_step_program(schedule, plan, shape)};
    for (int turn = 1; turn < programs.front().turns; ++turn)
      programs.push_back(make_step_program(schedule, plan, shape, turn));
    return programs;
  }
  int staged_event(int staging) const { return first_staged_event_ + staging; }
  std::size_t place_of(int place, std::size_t slice) const {
    return static_cast<std::size_t>(place) * static_cast<std::size_t>(options_.mine.size()) + slice;
  }

  bool narrow_is_copy() const { return bytes_of(plan_.precision) != sizeof(float); }
  std::size_t output_elements() const { return static_cast<std::size_t>(plan_.rows * plan_.loss.width); }

  template <class Use>
  void with_type(Use use) {
    if (plan_.precision == Precision::bf16)
      use(Bf16{});
    else if (plan_.precision == Precision::fp16)
      use(Fp16{});
    else
      use(float{});
  }

  void check(const StepInputs& inputs) const {
    require(static_cast<std::int64_t>(inputs.slices.size()) == options_.mine.size(),
            "executor: wrong number of slices");
    require(inputs.results.size() == inputs.slices.size(), "executor: one result per slice");
    require(static_cast<std::int64_t>(inputs.parameters.size()) == plan_.layout.elements,
            "executor: parameters do not fit");
    require(inputs.place >= 0 && inputs.place < options_.places, "executor: no such place of a step");
    for (const Batch& batch : inputs.slices) {
      require(batch.rows == plan_.rows, "executor: a slice of another size");
      require(staging_.fits(batch), "executor: it was compiled for an input of another type or size");
      require(!plan_.training || answers(batch), "train: a slice lacks the field that the loss takes");
    }
  }
  bool answers(const Batch& batch) const { return staging_.answers(batch); }
  const Batch& batch_of(const StepInputs& inputs, std::int64_t slice) const {
    return inputs.slices[static_cast<std::size_t>(slice - options_.mine.begin)];
  }

  void step(const StepInputs& inputs, std::span<const std::span<float>> outputs);

  void perform(const StepProgram& program, std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i)
      std::visit([this](const auto& a) { perform(a); }, program.actions[i]);
  }
  /// What a step begins with on the compute stream.
  void begin_slices(const StepInputs& inputs) {
    if (spread_loss_) machine_->each(1, Zero{loss_watch_});
    if (narrow_is_copy() && inputs.parameters_changed)
      with_type([&](auto type) {
        using T = decltype(type);
        if constexpr (!std::is_same_v<T, float>)
          machine_->each(plan_.layout.elements, Convert<T>{parameters_, reinterpret_cast<T*>(narrow_)});
      });
  }
  /// The body of a whole step as one piece, captured where that is on. What differs from step to step is read
  /// from the device's memory; what does not lie there (a slice without samples, somebody who looks at
  /// slices) makes a step that is enqueued as it is.
  void whole_step(const StepInputs& inputs, const StepProgram& program);
  /// A piece of a step, captured by itself where the step is not one piece.
  template <class Body>
  void run_piece(std::uint64_t key, Body body) {
    if (options_.whole_step)
      body();
    else
      machine_->run(key, body);
  }
  void fetch_result(const RunForward& a) {
    const Batch& batch = batch_of(*inputs_now_, a.slice);
    if (batch.valid == 0 || !answers(batch)) return;
    const auto i = static_cast<std::size_t>(a.slice - options_.mine.begin);
    machine_->copy_out(results_out_ + place_of(inputs_now_->place, i),
                       results_[static_cast<std::size_t>(a.buffer)], sizeof(LossSums), Lane::compute);
  }
  /// Captured pieces hold addresses, and may be under way.
  void forget_captured() {
    machine_->finish();
    machine_->forget();
  }

  void take_parameters(const StepInputs& inputs) {
    Machine& m = *machine_;
    if (options_.device_buffers) {
      auto* given = const_cast<float*>(inputs.parameters.data());
      if (parameters_ != nullptr && given != parameters_) forget_captured();
      parameters_ = given;
    } else if (inputs.parameters_changed) {
      std::memcpy(parameters_in_, inputs.parameters.data(), inputs.parameters.size_bytes());
      m.copy_in(parameters_, parameters_in_, inputs.parameters.size_bytes(), Lane::compute);
    }
    if (!narrow_is_copy()) narrow_ = reinterpret_cast<std::byte*>(parameters_);
  }

  void take_roots(const StepInputs& inputs) {
    for (std::size_t r = 0; r < inputs.roots.size(); ++r) {
      if (slots_[r] != nullptr && slots_[r] != inputs.roots[r].data()) forget_captured();
      slots_[r] = inputs.roots[r].data();
    }
  }

  // ---- the actions of the step program ----

  void perform(const Upload& a);

  void perform(const Record& a) { machine_->record(a.event, a.on); }
  void perform(const Wait& a) { machine_->wait(a.event, a.on); }

  SliceMemory memory(int slot, int buffer) const {
    const auto b = static_cast<std::size_t>(buffer);
    SliceMemory memory;
    memory.arena = arena_;
    memory.parameters = parameters_;
    memory.narrow = narrow_;
    memory.gradients = plan_.training ? slots_[static_cast<std::size_t>(slot)] : nullptr;
    staging_.point_into(inputs_[b], memory);
    memory.loss_scale = device_scale_ != nullptr ? device_scale_ : &memory.header->loss_scale;
    memory.result = reinterpret_cast<LossSums*>(results_[b]);
    return memory;
  }
  static constexpr std::uint64_t whole_key = std::uint64_t{1} << 63;
  /// What decides the addresses in a captured piece: 0 forward, 1 + s segment s.
  static std::uint64_t capture_key(int piece, int slot, int buffer, bool with_answers) {
    return (static_cast<std::uint64_t>(piece) << 34) | (static_cast<std::uint64_t>(slot) << 2) |
           (static_cast<std::uint64_t>(buffer) << 1) | (with_answers ? 1u : 0u);
  }

  void perform(const RunForward& a);

  void perform(const RunSegment& a);

  // ---- the slow ways, for those who look at what is computed: the host waits for every piece ----

  /// A slice's gradient before it is added to others; the listener may change it.
  void show_slice(std::int64_t slice, float* slot, Range flat);
  /// The valid rows of a value, as float32.
  template <class T>
  std::vector<float> fetch(const PlannedOp::Place& place, const Batch& batch) {
    return inspector_.template see_as_floats<T>(arena_ + place.at, batch.valid * place.row_elements);
  }
  void inspect_forward(const RunForward& a, const Batch& batch);
  void inspect_backward(const RunSegment& a, const Batch& batch, const Segment& segment);

  void perform(const MergeSlots& a);
  void perform(const Download& a);
  void perform(const Announce& a);

  lockstep::Graph graph_;
  ExecutorOptions options_;
  CudaOptions cuda_;
  std::unique_ptr<Machine> machine_;
  ValueInspector<Machine> inspector_{*machine_};
  Plan plan_;
  SliceSchedule schedule_;
  std::vector<StepProgram> programs_;  // by turn
  std::size_t turn_ = 0;
  SliceStaging staging_;
  std::size_t private_slots_ = 0;
  std::byte* arena_ = nullptr;
  std::byte* narrow_ = nullptr;
  float* parameters_ = nullptr;
  float* parameters_in_ = nullptr;            // pinned
  const float* device_scale_ = nullptr;       // of the loss; null: it comes with the input
  std::vector<std::byte*> inputs_, results_;  // per input buffer
  std::vector<std::byte*> staged_;            // pinned; filled one after the other
  int staging_next_ = 0, first_staged_event_ = 0;
  std::vector<float*> slots_;        // on the device: roots first, then private ones
  std::vector<float*> roots_out_;    // pinned
  LossSums* results_out_ = nullptr;  // pinned, (places, slices)
  std::vector<Counted> counted_;     // the same
  float* outputs_out_ = nullptr;     // pinned, per slice
  const StepInputs* inputs_now_ = nullptr;
  bool want_outputs_ = false;
  float* loss_watch_ = nullptr;  // on the device
  bool spread_loss_ = false;     // of this step, until it has been
  std::vector<Announce> pending_;
};

}  // namespace lockstep::cuda

#include "model/cuda/run/engine_step.inc.h"
