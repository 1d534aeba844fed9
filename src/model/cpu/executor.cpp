#include <algorithm>

#include "core/error.h"
#include "model/cpu/cpu_executor.h"
#include "model/plan/op_report.h"

namespace lockstep {
namespace cpu {
namespace {

bool same_storage(const FlatLayout& a, const FlatLayout& b) {
  return a.elements == b.elements &&
         std::equal(a.segments.begin(), a.segments.end(), b.segments.begin(), b.segments.end(),
                    [](const FlatSegment& x, const FlatSegment& y) {
                      return x.name == y.name && x.shape == y.shape && x.storage == y.storage;
                    });
}

}  // namespace

CpuExecutor::CpuExecutor(const Graph& graph, const ExecutorOptions& options, LanePool& lanes,
                         Timeline* timeline, Precision precision)
    : graphs_(options.classes.empty() ? std::vector<Graph>{graph} : options.classes),
      options_(options),
      lanes_(lanes),
      timeline_(timeline),
      schedule_(make_slice_schedule(options.slices, options.mine, lanes.size())) {
  prepare_compute_thread();
  std::size_t arena = 0, scratch = 0, prepared = 0, items = 0;
  for (const Graph& of_class : graphs_) {
    const Plan& plan = plans_.emplace_back(
        cpu::make_plan(of_class, options.slice_rows, options.training, lanes.size(), precision));
    require(same_storage(plan.layout, plans_.front().layout),
            "executor: the graphs of a family have the same parameters");
    arena = std::max(arena, plan.arena_bytes);
    scratch = std::max(scratch, plan.scratch_bytes);
    prepared = std::max(prepared, plan.prepared_bytes);
    items = std::max(items, plan.backward.size());
  }
  for (int i = 0; i < schedule_.contexts; ++i) arenas_.emplace_back(arena);
  for (int i = 0; i < lanes.size(); ++i) scratch_.emplace_back(scratch + buffer_alignment);
  prepared_ = HostBuffer(prepared + buffer_alignment);
  use(0);
  if (options.training) {
    const auto roots = schedule_.roots.size();
    for (int i = static_cast<int>(roots); i < schedule_.slots; ++i)
      private_slots_.emplace_back(at(plan().layout.elements) * sizeof(float));
    slots_.resize(at(schedule_.slots));
    for (std::size_t i = 0; i < private_slots_.size(); ++i) slots_[roots + i] = private_slots_[i].as<float>();
  }
  teams_ = std::vector<Team>(at(std::max(schedule_.contexts, 1)));
  pending_ = std::vector<std::atomic<int>>(items);
}

void CpuExecutor::use(int length_class) {
  class_ = length_class;
  prepare_rounds_ = 0;
  for (const PlannedOp& op : plan().ops)
    prepare_rounds_ += static_cast<int>(op.kernel->prepare_phases().size());
}

PlanReport CpuExecutor::report() const {
  PlanReport report;
  for (const PlannedOp& op : plan().ops) {
    OpReport row = report_of(graph(), op.nodes, op.output);
    row.kernel = op.kernel->implementation();
    report.ops.push_back(std::move(row));
  }
  for (const Plan& plan : plans_) {
    report.arena_bytes = std::max(report.arena_bytes, plan.arena_bytes);
    report.scratch_bytes = std::max(report.scratch_bytes, plan.scratch_bytes);
    report.prepared_bytes = std::max(report.prepared_bytes, plan.prepared_bytes);
  }
  for (const HostBuffer& slot : private_slots_) report.gradient_bytes += slot.size();
  report.contexts = schedule_.contexts;
  return report;
}

std::string CpuExecutor::fingerprint() const {
  std::string text = cpu_library_version() + "\n";
  if (plan().precision != Precision::fp32)
    text += std::string("precision ") + name_of(plan().precision) + "\n";
  for (std::size_t c = 0; c < plans_.size(); ++c)
    for (const PlannedOp& op : plans_[c].ops)
      text += graphs_[c].nodes[at(op.nodes.front())].name + " " + op.kernel->implementation() + "\n";
  return text;
}

void CpuExecutor::export_plain(const FlatSegment& segment, std::span<const float> stored,
                               std::span<float> plain) const {
  if (segment.kind == FlatSegment::Kind::statistic) {
    std::copy_n(stored.begin(), plain.size(), plain.begin());
    return;
  }
  for (const PlannedOp& op : plan().ops) {
    const auto& parameters = graph().nodes[at(op.nodes.front())].parameters;
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
  for (const PlannedOp& op : plan().ops) {
    const auto& parameters = graph().nodes[at(op.nodes.front())].parameters;
    const auto it = std::find(parameters.begin(), parameters.end(), segment.index);
    if (it == parameters.end()) continue;
    op.kernel->import_plain(static_cast<std::size_t>(it - parameters.begin()), plain, stored);
    return;
  }
  throw InternalError("import_plain: no op holds " + segment.name);
}

}  // namespace cpu

std::unique_ptr<Executor> compile_cpu(const Graph& graph, const ExecutorOptions& options, LanePool& lanes,
                                      Timeline* timeline, Precision precision) {
  check_cpu_precision(precision);
  for (const FieldTransform& transform : options.transforms)
    require(!transform.any(), "executor: on the CPU the loader transforms fields");
  return std::make_unique<cpu::CpuExecutor>(graph, options, lanes, timeline, precision);
}

}  // namespace lockstep
