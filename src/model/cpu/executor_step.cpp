// What a CpuExecutor does in a step.

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/simd.h"
#include "model/cpu/cpu_executor.h"
#include "model/cpu/slice_loss.h"
#include "model/plan/row_lengths.h"

namespace lockstep::cpu {
namespace {

LOCKSTEP_TARGET_CLONES
void add_into(float* __restrict dst, const float* __restrict src, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) dst[i] += src[i];
}

constexpr std::int64_t merge_chunk = 64 * 1024;  // floats a task when a team adds slots together

}  // namespace

void CpuExecutor::prepare(int lane, const StepInputs& inputs) {
  TaskContext ctx;
  ctx.scratch = scratch_[at(lane)].data();
  ctx.lane = lane;
  ctx.parameters = inputs.parameters.data();
  for (const PlannedOp& op : plan().ops) {
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
  const Batch& batch = inputs.slices[index];
  TaskContext ctx;
  ctx.arena = arenas_[at(work.context)].data();
  ctx.scratch = scratch_[at(lane)].data();
  ctx.lane = lane;
  ctx.prepared = prepared_.data();
  ctx.parameters = inputs.parameters.data();
  ctx.gradients = plan().training ? slots_[at(work.slot)].data() : nullptr;
  ctx.batch = &batch;
  ctx.seed = inputs.seed;
  ctx.step = inputs.step;
  const bool leader = lane == 0 || round.team_of_lane[at(lane) - 1] != work.team;
  const bool record = timeline_ != nullptr && timeline_->enabled() && leader;
  const std::int64_t begin = record ? timeline_->now() : 0;

  // A slice without a sample contributes nothing: its sums are zeros, and nothing is computed.
  if (batch.valid == 0) {
    if (plan().training) {
      teamwork_.phase(team, 1, [&](int) { std::fill_n(ctx.gradients, plan().layout.elements, 0.0f); });
      if (leader) inputs.results[index] = SliceResult{};
      for (std::size_t item = 0; item < plan().backward.size(); ++item)
        finish_range(item, round, last_round, work, inputs);
    } else if (leader) {
      inputs.results[index] = SliceResult{};
      if (!outputs.empty()) std::fill(outputs[index].begin(), outputs[index].end(), 0.0f);
    }
    return;
  }

  teamwork_.phase(team, 1, [&](int) {
    if (!graph().lengths.empty())
      fill_row_lengths(graph(), batch,
                       {reinterpret_cast<std::int32_t*>(ctx.arena + plan().lengths_offset),
                        graph().lengths.size() * at(batch.rows)});
    for (std::size_t i = 0; i < graph().inputs.size(); ++i) {
      const FieldRows rows = batch.field(at(graph().values[at(graph().inputs[i])].field));
      std::memcpy(ctx.arena + plan().input_offset[i], rows.data.data(), rows.data.size());
    }
  });
  const bool record_ops = timeline_ != nullptr && timeline_->enabled() && plan().training;
  for (const PlannedOp& op : plan().ops) {
    const std::int64_t op_begin = record_ops ? timeline_->now() : 0;
    const auto phases = op.kernel->forward_phases();
    for (std::size_t p = 0; p < phases.size(); ++p)
      teamwork_.phase(team, phases[p].tasks,
                      [&](int t) { op.kernel->forward(static_cast<int>(p), t, op.at, ctx); });
    if (op.mask.lengths >= 0) clear_padding_of(op, op.at.output, ctx, team);
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
    inputs.results[index] = slice_loss(plan(), graph(), ctx);
    if (!outputs.empty())
      std::memcpy(outputs[index].data(), ctx.arena + plan().output_offset, outputs[index].size_bytes());
  });
  if (record)
    timeline_->record(EventKind::slice_forward, lane, static_cast<std::int64_t>(inputs.step), work.slice,
                      begin, timeline_->now());
  if (!plan().training) return;
  const std::int64_t turn = record ? timeline_->now() : 0;
  backward(lane, round, last_round, work, ctx, inputs);
  if (record)
    timeline_->record(EventKind::slice_backward, lane, static_cast<std::int64_t>(inputs.step), work.slice,
                      turn, timeline_->now());
}

void CpuExecutor::clear_padding_of(const PlannedOp& op, std::size_t offset, const TaskContext& ctx,
                                   Team& team) {
  const std::int64_t row = op.mask.extent * op.mask.features;
  const auto* lengths = reinterpret_cast<const std::int32_t*>(ctx.arena + plan().lengths_offset) +
                        op.mask.lengths * plan().rows;
  teamwork_.phase(team, static_cast<int>(plan().rows), [&](int r) {
    clear_padding(reinterpret_cast<float*>(ctx.arena + offset) + r * row, {lengths + r, 1}, op.mask.extent,
                  op.mask.features);
  });
}

std::span<const float> CpuExecutor::floats_at(const TaskContext& ctx, std::size_t offset, ValueId value,
                                              std::vector<float>& widened) const {
  const std::size_t count = at(graph().shape_of(value).elements() * ctx.batch->valid);
  if (plan().layouts[at(value)].format == NumberFormat::fp32)
    return {reinterpret_cast<const float*>(ctx.arena + offset), count};
  const auto* stored = reinterpret_cast<const std::uint16_t*>(ctx.arena + offset);
  widened.resize(count);
  std::transform(stored, stored + count, widened.begin(), bf16_to_float);
  return widened;
}

void CpuExecutor::inspect_backward(const BackwardItem& item, const TaskContext& ctx,
                                   OpInspector& inspector) const {
  const PlannedOp& op = plan().ops[at(item.op)];
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
  for (std::size_t i = 0; i < plan().backward.size(); ++i) {
    const BackwardItem& item = plan().backward[i];
    const PlannedOp& op = plan().ops[at(item.op)];
    if (!op.has_backward) {  // nothing below is trained
      teamwork_.phase(team, 1, [&](int) {
        for (const Range zeros : item.zeros) std::fill_n(ctx.gradients + zeros.begin, zeros.size(), 0.0f);
      });
      finish_range(i, round, last_round, work, inputs);
      continue;
    }
    const std::int64_t begin = record ? timeline_->now() : 0;
    if (op.mask.lengths >= 0) clear_padding_of(op, op.at.diff_output, ctx, team);
    const auto phases = op.kernel->backward_phases();
    for (std::size_t p = 0; p < phases.size(); ++p)
      teamwork_.phase(team, phases[p].tasks,
                      [&](int t) { op.kernel->backward(static_cast<int>(p), t, op.at, ctx); });
    for (const Accumulate& sum : item.accumulate) {
      const std::int64_t row = sum.elements / plan().rows;
      teamwork_.phase(team, static_cast<int>(plan().rows), [&](int t) {
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
  const Range range = plan().ops[at(plan().backward[item].op)].flat;
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
  if (prepare_rounds_ > 0 && prepare_now_) prepare(lane, inputs);
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
  require(static_cast<std::int64_t>(inputs.parameters.size()) == plan().layout.elements,
          "executor: parameters do not fit");
  const int length_class = inputs.slices.empty() ? class_ : inputs.slices.front().length_class;
  require(length_class >= 0 && at(length_class) < plans_.size(),
          "executor: a batch of an unknown length class");
  if (length_class != class_) use(length_class);
  prepare_now_ = inputs.parameters_changed || prepared_class_ != class_;
  prepared_class_ = class_;
  for (const Batch& batch : inputs.slices) {
    require(batch.length_class == class_, "executor: slices of different length classes in one batch");
    require(batch.rows == plan().rows, "executor: a slice that it was not made for");
    for (const ValueId v : graph().inputs) {
      const FieldRows rows = batch.field(at(graph().values[at(v)].field));
      require(rows.type == graph().field_of(v).type &&
                  rows.data.size() == at(plan().rows) * graph().field_of(v).bytes(),
              "executor: a field of another type or size");
    }
  }
  everybody_.reset(lanes_.size());
  teamwork_.run(lanes_, [&](int lane) { run_lane(lane, inputs, outputs); });
}

void CpuExecutor::train(const StepInputs& inputs) {
  require(plan().training, "train: the executor was compiled for inference");
  require(inputs.roots.size() == schedule_.roots.size(), "train: one slot per maximal subtree");
  std::copy(inputs.roots.begin(), inputs.roots.end(), slots_.begin());
  run(inputs, {});
}

void CpuExecutor::infer(const StepInputs& inputs, std::span<const std::span<float>> outputs) {
  require(!plan().training, "infer: the executor was compiled for training");
  run(inputs, outputs);
}

}  // namespace lockstep::cpu
