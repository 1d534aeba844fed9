#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/index.h"
#include "device/lane_pool.h"
#include "device/memory.h"
#include "model/cpu/lane_team.h"
#include "model/cpu/plan.h"
#include "model/plan/executor.h"

namespace lockstep::cpu {

/// Runs the plans of a graph, or of a family, on the lanes of a rank.
class CpuExecutor final : public Executor {
 public:
  CpuExecutor(const Graph& graph, const ExecutorOptions& options, LanePool& lanes, Timeline* timeline,
              Precision precision);

  const FlatLayout& layout() const override { return plan().layout; }
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
  const Plan& plan() const { return plans_[at(class_)]; }
  const Graph& graph() const { return graphs_[at(class_)]; }
  /// Makes the plan of a length class the one that runs.
  void use(int length_class);
  void clear_padding_of(const PlannedOp& op, std::size_t offset, const TaskContext& ctx, Team& team);
  const std::vector<Graph> graphs_;  // one, or one for each length class
  ExecutorOptions options_;
  LanePool& lanes_;
  Timeline* timeline_;
  SliceSchedule schedule_;
  std::vector<Plan> plans_;
  int class_ = 0;
  int prepared_class_ = -1;  // whose weights are prepared
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
  bool prepare_now_ = true;
};

}  // namespace lockstep::cpu
