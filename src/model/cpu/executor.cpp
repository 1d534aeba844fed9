#include "model/plan/executor.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/error.h"
#include "core/index.h"
#include "core/simd.h"
#include "device/lane_pool.h"
#include "device/memory.h"
#include "model/cpu/lane_team.h"
#include "model/cpu/plan.h"
#include "model/cpu/slice_loss.h"
#include "model/graph/op_entry.h"
#include "model/graph/op_table.h"
#include "model/plan/op_report.h"

namespace lockstep {
namespace {

using cpu::Accumulate;
using cpu::BackwardItem;
using cpu::Plan;
using cpu::PlannedOp;
using cpu::TaskContext;
using cpu::Team;
using cpu::Teamwork;

LOCKSTEP_TARGET_CLONES
void add_into(float* __restrict dst, const float* __restrict src, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) dst[i] += src[i];
}

constexpr std::int64_t merge_chunk = 64 * 1024;  // floats a task when a team adds slots together

class CpuExecutor final : public Executor {
 public:
  CpuExecutor(const Graph& graph, const ExecutorOptions& options, LanePool& lanes, Timeline* timeline,
              Precision precision)
      : graph_(graph),
        options_(options),
        lanes_(lanes),
        timeline_(timeline),
        schedule_(make_slice_schedule(options.slices, options.mine, lanes.size())) {
    prepare_compute_thread();
    plan_ = cpu::make_plan(graph_, options.slice_rows, options.training, lanes.size(), precision);
    for (int i = 0; i < schedule_.contexts; ++i) arenas_.emplace_back(plan_.arena_bytes);
    for (int i = 0; i < lanes.size(); ++i) scratch_.emplace_back(plan_.scratch_bytes + buffer_alignment);
    prepared_ = HostBuffer(plan_.prepared_bytes + buffer_alignment);
    if (options.training) {
      const auto roots = schedule_.roots.size();
      for (int i = static_cast<int>(roots); i < schedule_.slots; ++i)
        private_slots_.emplace_back(at(plan_.layout.elements) * sizeof(float));
      slots_.resize(at(schedule_.slots));
      for (std::size_t i = 0; i < private_slots_.size(); ++i)
        slots_[roots + i] = private_slots_[i].as<float>();
    }
    teams_ = std::vector<Team>(at(std::max(schedule_.contexts, 1)));
    pending_ = std::vector<std::atomic<int>>(plan_.backward.size());
    for (const PlannedOp& op : plan_.ops)
      for (std::size_t p = 0; p < op.kernel->prepare_phases().size(); ++p) ++prepare_rounds_;
  }

  const FlatLayout& layout() const override { return plan_.layout; }
  const SliceSchedule& schedule() const override { return schedule_; }
  PlanReport report() const override;
  std::string fingerprint() const override;
  void train(const StepInputs& inputs) override;
  void infer(const StepInputs& inputs, std::span<const std::span<float>> outputs) override;
  void export_plain(const FlatSegment& segment, std::span<const float> stored,
                    std::span<float> plain) const override;
  void import_plain(const FlatSegment& segment, std::span<const float> plain,
                    std::span<float> stored) const override;

 private:
  void run(const StepInputs& inputs, std::span<const std::span<float>> outputs);
  void run_lane(int lane, const StepInputs& inputs, std::span<const std::span<float>> outputs);
  void prepare(int lane, const StepInputs& inputs);
  void run_slice(int lane, const SliceSchedule::Round& round, bool last_round,
                 const SliceSchedule::Work& work, const StepInputs& inputs,
                 std::span<const std::span<float>> outputs);
  void backward(int lane, const SliceSchedule::Round& round, bool last_round, const SliceSchedule::Work& work,
                TaskContext& ctx, const StepInputs& inputs);
  void finish_range(std::size_t item, const SliceSchedule::Round& round, bool last_round,
                    const SliceSchedule::Work& work, const StepInputs& inputs);
  /// The valid rows of a value of the slice in flight; in `widened` where it is not stored as float32.
  std::span<const float> floats_at(const TaskContext& ctx, std::size_t offset, ValueId value,
                                   std::vector<float>& widened) const;
  void inspect_backward(const BackwardItem& item, const TaskContext& ctx, OpInspector& inspector) const;
  Graph graph_;
  ExecutorOptions options_;
  LanePool& lanes_;
  Timeline* timeline_;
  SliceSchedule schedule_;
  Plan plan_;
  std::vector<HostBuffer> arenas_;
  std::vector<HostBuffer> scratch_;
  std::vector<HostBuffer> private_slots_;
  HostBuffer prepared_;
  std::vector<std::span<float>> slots_;
  Teamwork teamwork_;
  std::vector<Team> teams_;
  Team everybody_;
  std::vector<std::atomic<int>> pending_;  // per backward item: works of the round that have not ended it
  int prepare_rounds_ = 0;
};

void CpuExecutor::prepare(int lane, const StepInputs& inputs) {
  TaskContext ctx;
  ctx.scratch = scratch_[at(lane)].data();
  ctx.lane = lane;
  ctx.parameters = inputs.parameters.data();
  for (const PlannedOp& op : plan_.ops) {
    const auto phases = op.kernel->prepare_phases();
    for (std::size_t p = 0; p < phases.size(); ++p)
      teamwork_.phase(everybody_, phases[p].tasks, [&](int t) {
        op.kernel->prepare(static_cast<int>(p), t, op.at, ctx, prepared_.data());
      });
  }
}

void CpuExecutor::run_slice(int lane, const SliceSchedule::Round& round, bool last_round,
                            const SliceSchedule::Work& work, const StepInputs& inputs,
                            std::span<const std::span<float>> outputs) {
  Team& team = teams_[at(work.team)];
  const std::size_t index = at(work.slice - options_.mine.begin);
  const SliceBatch& batch = inputs.slices[index];
  TaskContext ctx;
  ctx.arena = arenas_[at(work.context)].data();
  ctx.scratch = scratch_[at(lane)].data();
  ctx.lane = lane;
  ctx.prepared = prepared_.data();
  ctx.parameters = inputs.parameters.data();
  ctx.gradients = plan_.training ? slots_[at(work.slot)].data() : nullptr;
  ctx.batch = &batch;
  ctx.seed = inputs.seed;
  ctx.step = inputs.step;
  const bool leader = lane == 0 || round.team_of_lane[at(lane) - 1] != work.team;
  const bool record = timeline_ != nullptr && timeline_->enabled() && leader;
  const std::int64_t begin = record ? timeline_->now() : 0;

  // A slice without a sample contributes nothing: its sums are zeros, and nothing is computed.
  if (batch.valid == 0) {
    if (plan_.training) {
      teamwork_.phase(team, 1, [&](int) { std::fill_n(ctx.gradients, plan_.layout.elements, 0.0f); });
      if (leader) inputs.results[index] = SliceResult{};
      for (std::size_t item = 0; item < plan_.backward.size(); ++item)
        finish_range(item, round, last_round, work, inputs);
    } else if (leader) {
      inputs.results[index] = SliceResult{};
      if (!outputs.empty()) std::fill(outputs[index].begin(), outputs[index].end(), 0.0f);
    }
    return;
  }

  teamwork_.phase(team, 1, [&](int) {
    std::memcpy(ctx.arena + plan_.input_offset[0], batch.input.data(), batch.input.size_bytes());
  });
  const bool record_ops = timeline_ != nullptr && timeline_->enabled() && plan_.training;
  for (const PlannedOp& op : plan_.ops) {
    const std::int64_t op_begin = record_ops ? timeline_->now() : 0;
    const auto phases = op.kernel->forward_phases();
    for (std::size_t p = 0; p < phases.size(); ++p)
      teamwork_.phase(team, phases[p].tasks,
                      [&](int t) { op.kernel->forward(static_cast<int>(p), t, op.at, ctx); });
    if (inputs.inspector != nullptr)
      teamwork_.phase(team, 1, [&](int) {
        std::vector<float> widened;
        inputs.inspector->forward(op.nodes, floats_at(ctx, op.at.output, op.output, widened));
      });
    if (record_ops)
      timeline_->record(EventKind::op_forward, lane, work.slice, op.nodes.front(), op_begin,
                        timeline_->now());
    if (inputs.listener != nullptr) inputs.listener->progress();
  }
  teamwork_.phase(team, 1, [&](int) {
    inputs.results[index] = cpu::slice_loss(plan_, graph_, ctx);
    if (!outputs.empty())
      std::memcpy(outputs[index].data(), ctx.arena + plan_.output_offset, outputs[index].size_bytes());
  });
  if (record)
    timeline_->record(EventKind::slice_forward, lane, static_cast<std::int64_t>(inputs.step), work.slice,
                      begin, timeline_->now());
  if (!plan_.training) return;
  const std::int64_t turn = record ? timeline_->now() : 0;
  backward(lane, round, last_round, work, ctx, inputs);
  if (record)
    timeline_->record(EventKind::slice_backward, lane, static_cast<std::int64_t>(inputs.step), work.slice,
                      turn, timeline_->now());
}

std::span<const float> CpuExecutor::floats_at(const TaskContext& ctx, std::size_t offset, ValueId value,
                                              std::vector<float>& widened) const {
  const std::size_t count = at(graph_.shape_of(value).elements() * ctx.batch->valid);
  if (plan_.layouts[at(value)].format == NumberFormat::fp32)
    return {reinterpret_cast<const float*>(ctx.arena + offset), count};
  const auto* stored = reinterpret_cast<const std::uint16_t*>(ctx.arena + offset);
  widened.resize(count);
  std::transform(stored, stored + count, widened.begin(), bf16_to_float);
  return widened;
}

void CpuExecutor::inspect_backward(const BackwardItem& item, const TaskContext& ctx,
                                   OpInspector& inspector) const {
  const PlannedOp& op = plan_.ops[at(item.op)];
  std::vector<std::span<const float>> diffs;
  std::vector<std::vector<float>> widened(op.at.diff_inputs.size());
  for (std::size_t i = 0; i < op.at.diff_inputs.size(); ++i)
    if (op.at.diff_inputs[i] != cpu::none)
      diffs.push_back(floats_at(ctx, op.at.diff_inputs[i], op.inputs[i], widened[i]));
  inspector.backward(op.nodes, {ctx.gradients + op.flat.begin, at(op.flat.size())}, diffs);
}

void CpuExecutor::backward(int lane, const SliceSchedule::Round& round, bool last_round,
                           const SliceSchedule::Work& work, TaskContext& ctx, const StepInputs& inputs) {
  Team& team = teams_[at(work.team)];
  const bool record = timeline_ != nullptr && timeline_->enabled();
  for (std::size_t i = 0; i < plan_.backward.size(); ++i) {
    const BackwardItem& item = plan_.backward[i];
    const PlannedOp& op = plan_.ops[at(item.op)];
    if (!op.has_backward) {  // nothing below is trained
      teamwork_.phase(team, 1, [&](int) {
        for (const Range zeros : item.zeros) std::fill_n(ctx.gradients + zeros.begin, zeros.size(), 0.0f);
      });
      finish_range(i, round, last_round, work, inputs);
      continue;
    }
    const std::int64_t begin = record ? timeline_->now() : 0;
    const auto phases = op.kernel->backward_phases();
    for (std::size_t p = 0; p < phases.size(); ++p)
      teamwork_.phase(team, phases[p].tasks,
                      [&](int t) { op.kernel->backward(static_cast<int>(p), t, op.at, ctx); });
    for (const Accumulate& sum : item.accumulate) {
      const std::int64_t row = sum.elements / plan_.rows;
      teamwork_.phase(team, static_cast<int>(plan_.rows), [&](int t) {
        add_into(reinterpret_cast<float*>(ctx.arena + sum.dst) + t * row,
                 reinterpret_cast<const float*>(ctx.arena + sum.src) + t * row, row);
      });
    }
    if (record)
      timeline_->record(EventKind::op_backward, lane, ctx.batch->slice, op.nodes.front(), begin,
                        timeline_->now());
    if (inputs.inspector != nullptr)
      teamwork_.phase(team, 1, [&](int) { inspect_backward(item, ctx, *inputs.inspector); });
    finish_range(i, round, last_round, work, inputs);
    if (inputs.listener != nullptr) inputs.listener->progress();
  }
}

void CpuExecutor::finish_range(std::size_t item, const SliceSchedule::Round& round, bool last_round,
                               const SliceSchedule::Work& work, const StepInputs& inputs) {
  const Range range = plan_.ops[at(plan_.backward[item].op)].flat;
  if (range.size() == 0) return;
  Team& team = teams_[at(work.team)];
  if (inputs.slice_listener != nullptr)  // before anything is added to the slot
    teamwork_.arrive(team, [&] {
      inputs.slice_listener->slice_ready(work.slice, range,
                                         slots_[at(work.slot)].subspan(at(range.begin), at(range.size())));
    });
  auto merge = [&](Range piece) {
    for (const SliceSchedule::Merge& m : round.merges)
      add_into(slots_[at(m.into)].data() + piece.begin, slots_[at(m.from)].data() + piece.begin,
               piece.size());
  };
  auto announce = [&] {
    if (last_round && inputs.listener != nullptr) inputs.listener->ready(range);
  };
  if (round.work.size() == 1) {  // the whole team is here: it shares the additions
    if (round.merges.empty()) {
      teamwork_.arrive(team, announce);
      return;
    }
    const auto tasks = static_cast<int>((range.size() + merge_chunk - 1) / merge_chunk);
    teamwork_.phase(
        team, tasks,
        [&](int t) {
          merge({range.begin + t * merge_chunk, std::min(range.end, range.begin + (t + 1) * merge_chunk)});
        },
        announce);
    return;
  }
  teamwork_.arrive(team, [&] {
    // The team that ends the op last adds what all have left; the others go on.
    if (pending_[item].fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    merge(range);
    announce();
  });
}

void CpuExecutor::run_lane(int lane, const StepInputs& inputs, std::span<const std::span<float>> outputs) {
  if (prepare_rounds_ > 0 && inputs.parameters_changed) prepare(lane, inputs);
  for (std::size_t r = 0; r < schedule_.rounds.size(); ++r) {
    const SliceSchedule::Round& round = schedule_.rounds[r];
    teamwork_.arrive(everybody_, [&] {
      for (int t = 0; t < round.teams; ++t) {
        teams_[at(t)].reset(round.team_size[at(t)]);
      }
      for (auto& pending : pending_)
        pending.store(static_cast<int>(round.work.size()), std::memory_order_relaxed);
    });
    const int team = round.team_of_lane[at(lane)];
    for (const SliceSchedule::Work& work : round.work)
      if (work.team == team) run_slice(lane, round, r + 1 == schedule_.rounds.size(), work, inputs, outputs);
  }
}

void CpuExecutor::run(const StepInputs& inputs, std::span<const std::span<float>> outputs) {
  require(static_cast<std::int64_t>(inputs.slices.size()) == options_.mine.size(),
          "executor: wrong number of slices");
  require(inputs.results.size() == inputs.slices.size(), "executor: one result per slice");
  require(static_cast<std::int64_t>(inputs.parameters.size()) == plan_.layout.elements,
          "executor: parameters do not fit");
  for (const SliceBatch& batch : inputs.slices)
    require(batch.rows == plan_.rows && batch.moves.empty(), "executor: a slice that it was not made for");
  everybody_.reset(lanes_.size());
  teamwork_.run(lanes_, [&](int lane) { run_lane(lane, inputs, outputs); });
}

void CpuExecutor::train(const StepInputs& inputs) {
  require(plan_.training, "train: the executor was compiled for inference");
  require(inputs.roots.size() == schedule_.roots.size(), "train: one slot per maximal subtree");
  std::copy(inputs.roots.begin(), inputs.roots.end(), slots_.begin());
  run(inputs, {});
}

void CpuExecutor::infer(const StepInputs& inputs, std::span<const std::span<float>> outputs) {
  require(!plan_.training, "infer: the executor was compiled for training");
  run(inputs, outputs);
}

PlanReport CpuExecutor::report() const {
  PlanReport report;
  for (const PlannedOp& op : plan_.ops) {
    OpReport row = report_of(graph_, op.nodes, op.output);
    row.kernel = op.kernel->implementation();
    report.ops.push_back(std::move(row));
  }
  report.arena_bytes = plan_.arena_bytes;
  report.scratch_bytes = plan_.scratch_bytes;
  report.prepared_bytes = plan_.prepared_bytes;
  for (const HostBuffer& slot : private_slots_) report.gradient_bytes += slot.size();
  report.contexts = schedule_.contexts;
  return report;
}

std::string CpuExecutor::fingerprint() const {
  std::string text = cpu_library_version() + "\n";
  if (plan_.precision != Precision::fp32) text += std::string("precision ") + name_of(plan_.precision) + "\n";
  for (const PlannedOp& op : plan_.ops)
    text += graph_.nodes[at(op.nodes.front())].name + " " + op.kernel->implementation() + "\n";
  return text;
}

void CpuExecutor::export_plain(const FlatSegment& segment, std::span<const float> stored,
                               std::span<float> plain) const {
  if (segment.kind == FlatSegment::Kind::statistic) {
    std::copy_n(stored.begin(), plain.size(), plain.begin());
    return;
  }
  for (const PlannedOp& op : plan_.ops) {
    const auto& parameters = graph_.nodes[at(op.nodes.front())].parameters;
    const auto it = std::find(parameters.begin(), parameters.end(), segment.index);
    if (it == parameters.end()) continue;
    op.kernel->export_plain(static_cast<std::size_t>(it - parameters.begin()), stored, plain);
    return;
  }
  throw InternalError("export_plain: no op holds " + segment.name);
}

void CpuExecutor::import_plain(const FlatSegment& segment, std::span<const float> plain,
                               std::span<float> stored) const {
  if (segment.kind == FlatSegment::Kind::statistic) {
    std::copy(plain.begin(), plain.end(), stored.begin());
    return;
  }
  for (const PlannedOp& op : plan_.ops) {
    const auto& parameters = graph_.nodes[at(op.nodes.front())].parameters;
    const auto it = std::find(parameters.begin(), parameters.end(), segment.index);
    if (it == parameters.end()) continue;
    op.kernel->import_plain(static_cast<std::size_t>(it - parameters.begin()), plain, stored);
    return;
  }
  throw InternalError("import_plain: no op holds " + segment.name);
}

}  // namespace

std::unique_ptr<Executor> compile_cpu(const Graph& graph, const ExecutorOptions& options, LanePool& lanes,
                                      Timeline* timeline, Precision precision) {
  check_cpu_precision(precision);
  require(!options.augments, "executor: on the CPU the loader augments images");
  return std::make_unique<CpuExecutor>(graph, options, lanes, timeline, precision);
}

}  // namespace lockstep
