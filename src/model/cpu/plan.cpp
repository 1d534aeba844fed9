#include "model/cpu/plan.h"

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/index.h"
#include "device/memory.h"
#include "model/cpu/kernels/kernel_table.h"
#include "model/graph/op_entry.h"
#include "model/plan/fusion.h"

namespace lockstep::cpu {
namespace {

ValueLayout plain_layout(const Shape& shape) {
  if (shape.rank() == 3) return {shape[0], shape[1], shape[2], 1};
  return {shape.elements(), 1, 1, 1};
}

/// Layout of every value when convolutions write channel blocks of `block` (0: channels-last); nothing when
/// some op would then see values that it cannot take.
std::optional<std::vector<ValueLayout>> layouts_for(const Graph& graph, std::int64_t block) {
  std::vector<ValueLayout> out(graph.values.size());
  for (std::size_t v = 0; v < graph.values.size(); ++v) out[v] = plain_layout(graph.values[v].shape);
  for (const OpNode& node : graph.nodes) {
    ValueLayout& y = out[at(node.output)];
    const ValueLayout& x = out[at(node.inputs[0])];
    switch (node.attrs.entry().traits.layout) {
      case OpTraits::Layout::chooses: {
        const std::int64_t b = block == 0 ? y.channels : block;
        if (y.channels % b == 0) y.block = b;
        break;
      }
      case OpTraits::Layout::follows:
        for (const ValueId other : node.inputs)
          if (!(x == out[at(other)])) return std::nullopt;
        if (graph.shape_of(node.output).rank() == 3) y.block = x.block;
        break;
      case OpTraits::Layout::plain:
        for (const ValueId v : node.inputs)
          if (out[at(v)].block != 1) return std::nullopt;
        break;
      case OpTraits::Layout::any:
        break;
    }
  }
  if (graph.shape_of(graph.output).rank() == 3 && out[at(graph.output)].block != 1) return std::nullopt;
  return out;
}

std::vector<ValueLayout> choose_layouts(const Graph& graph, Precision precision) {
  if (auto blocked = layouts_for(graph, preferred_channel_block(precision))) return *std::move(blocked);
  auto plain = layouts_for(graph, 1);
  require(plain.has_value(), "choose_layouts: plain layouts must fit every op");
  return *std::move(plain);
}

/// In bf16: a value is stored so where the kernel that makes it and the only one that reads it take that. The
/// graph's inputs and output stay float32, and so do values that several ops read, whose gradients are
/// summed.
void choose_formats(const Graph& graph, const std::vector<FusedOp>& ops, std::vector<ValueLayout>& layouts) {
  const auto takes_bf16 = [&](const FusedOp& op) {
    return graph.nodes[at(op.nodes.front())].attrs.entry().traits.takes_bf16;
  };
  std::vector<int> readers(graph.values.size(), 0), readers_of_bf16(graph.values.size(), 0);
  for (const FusedOp& op : ops)
    for (const ValueId v : op.inputs) {
      ++readers[at(v)];
      if (takes_bf16(op)) ++readers_of_bf16[at(v)];
    }
  for (const FusedOp& op : ops) {
    const std::size_t v = at(op.output);
    if (takes_bf16(op) && op.output != graph.output && readers[v] == 1 && readers_of_bf16[v] == 1)
      layouts[v].format = NumberFormat::bf16;
  }
}

constexpr std::int64_t segment_alignment = 16;  // floats: one cache line

std::int64_t align_elements(std::int64_t n) {
  return (n + segment_alignment - 1) / segment_alignment * segment_alignment;
}

/// Lays parameters and statistics out, last op first.
void lay_out_flat(const Graph& graph, Plan& plan) {
  std::int64_t next = 0;
  for (auto op = plan.ops.rbegin(); op != plan.ops.rend(); ++op) {
    const OpNode& node = graph.nodes[at(op->nodes.front())];
    const std::int64_t begin = next;
    auto add = [&](FlatSegment segment, std::int64_t stored) {
      segment.storage = {next, next + stored};
      next = align_elements(next + stored);
      plan.layout.segments.push_back(std::move(segment));
    };
    for (std::size_t i = 0; i < node.parameters.size(); ++i) {
      const Parameter& p = graph.parameters[at(node.parameters[i])];
      const auto& stored = op->kernel->needs().parameter_storage;
      op->at.parameters.push_back(next);
      add({FlatSegment::Kind::parameter, node.parameters[i], p.name, p.shape, {}, 0, p.trainable, p.decays},
          i < stored.size() ? stored[i] : p.shape.elements());
    }
    for (const int s : node.statistics) {
      const Statistic& statistic = graph.statistics[at(s)];
      op->at.statistics.push_back(next);
      add({FlatSegment::Kind::statistic, s, statistic.name, statistic.shape, {}, statistic.momentum},
          statistic.shape.elements());
    }
    op->flat = {begin, next};
  }
  plan.layout.elements = std::max(next, segment_alignment);
}

/// Collects memory requests while bindings still need their offsets.
class ArenaBuilder {
 public:
  explicit ArenaBuilder(Plan& plan) : plan_(plan) {}

  /// `targets` get the offset once it is known.
  std::size_t add(std::string name, std::size_t bytes, int first, int last) {
    plan_.memory.push_back({std::move(name), std::max<std::size_t>(bytes, 1), first, last, 0});
    return plan_.memory.size() - 1;
  }
  void bind(std::size_t request, std::size_t* target) { targets_.emplace_back(request, target); }
  void extend(std::size_t request, int last) {
    plan_.memory[request].last = std::max(plan_.memory[request].last, last);
  }
  void finish() {
    plan_.arena_bytes = plan_memory(plan_.memory);
    for (const auto& [request, target] : targets_) *target = plan_.memory[request].offset;
  }

 private:
  Plan& plan_;
  std::vector<std::pair<std::size_t, std::size_t*>> targets_;
};

/// The parameters in a range of the flat layout; statistics have their sums from the forward pass.
std::vector<Range> zeros_of(const FlatLayout& layout, Range flat) {
  std::vector<Range> ranges;
  for (const FlatSegment& segment : layout.segments)
    if (segment.kind == FlatSegment::Kind::parameter && segment.storage.begin >= flat.begin &&
        segment.storage.end <= flat.end)
      ranges.push_back(segment.storage);
  return ranges;
}

/// Lifetimes: op i runs forward at time i, the loss at `count`, its backward at 2*count - i + …, in steps of
/// one.
void lay_out_arena(const Graph& graph, Plan& plan) {
  const std::vector<ValueLayout>& layouts = plan.layouts;
  const int count = static_cast<int>(plan.ops.size());
  const int loss_time = count;
  auto backward_time = [&](int op) { return 2 * count - op; };
  const auto rows = static_cast<std::size_t>(plan.rows);
  auto value_bytes = [&](ValueId v) { return rows * layouts[at(v)].bytes(); };

  ArenaBuilder arena(plan);
  std::vector<std::optional<std::size_t>> value(graph.values.size());
  plan.input_offset.resize(graph.inputs.size(), none);
  for (std::size_t i = 0; i < graph.inputs.size(); ++i) {
    const ValueId v = graph.inputs[i];
    value[at(v)] =
        arena.add(v == graph.inputs[0] ? "input" : "input" + std::to_string(i), value_bytes(v), 0, 0);
    arena.bind(*value[at(v)], &plan.input_offset[i]);
  }
  const std::size_t length_bytes = rows * sizeof(std::int32_t);
  std::optional<std::size_t> lengths;
  if (!graph.lengths.empty()) {
    lengths = arena.add("lengths", graph.lengths.size() * length_bytes, 0, 2 * count);
    arena.bind(*lengths, &plan.lengths_offset);
  }
  std::size_t work_bytes = 0;
  for (int i = 0; i < count; ++i) {
    PlannedOp& op = plan.ops[at(i)];
    const std::string& layer = graph.nodes[at(op.nodes.front())].name;
    const Needs& needs = op.kernel->needs();
    const bool backward = plan.training && op.has_backward;
    value[at(op.output)] = arena.add(layer, value_bytes(op.output), i, i);
    if (backward && needs.needs_output_in_backward) arena.extend(*value[at(op.output)], backward_time(i));
    arena.bind(*value[at(op.output)], &op.at.output);
    op.at.inputs.resize(op.inputs.size(), none);
    for (std::size_t k = 0; k < op.inputs.size(); ++k) {
      const std::size_t request = value[at(op.inputs[k])].value();
      arena.extend(request, backward && needs.needs_input_in_backward ? backward_time(i) : i);
      arena.bind(request, &op.at.inputs[k]);
    }
    if (needs.saved > 0)
      arena.bind(arena.add(layer + ".saved", needs.saved, i, backward ? backward_time(i) : i), &op.at.saved);
    work_bytes = std::max(work_bytes, needs.work);
  }
  // Ops of one slice run one after another, so all share one work area.
  if (work_bytes > 0) {
    const std::size_t work = arena.add("work", work_bytes, 0, 2 * count);
    for (PlannedOp& op : plan.ops)
      if (op.kernel->needs().work > 0) arena.bind(work, &op.at.work);
  }
  const std::size_t output = value[at(graph.output)].value();
  arena.extend(output, plan.training ? loss_time : count);
  arena.bind(output, &plan.output_offset);
  plan.loss.at.inputs = {none};
  arena.bind(output, &plan.loss.at.inputs[0]);
  const int loss_at = plan.training ? loss_time : count;
  arena.bind(arena.add("loss.rows", plan.loss.kernel->needs().saved, loss_at, loss_at), &plan.loss.at.saved);

  if (plan.training) {
    // Gradients of values: the first consumer in backward order (the loss before all) writes, others add.
    std::vector<std::optional<std::size_t>> diff(graph.values.size());
    const auto with_gradient = values_with_gradient(graph);
    diff[at(graph.output)] = arena.add("loss.diff", value_bytes(graph.output), loss_time, loss_time);
    plan.loss.at.diff_inputs = {none};
    arena.bind(*diff[at(graph.output)], &plan.loss.at.diff_inputs[0]);
    plan.backward.reserve(at(count));  // addresses of items are bound below
    for (int i = count - 1; i >= 0; --i) {
      PlannedOp& op = plan.ops[at(i)];
      if (!op.has_backward) {
        if (op.flat.size() > 0) plan.backward.push_back({i, {}, zeros_of(plan.layout, op.flat)});
        continue;
      }
      const int now = backward_time(i);
      const std::string& layer = graph.nodes[at(op.nodes.front())].name;
      plan.backward.push_back({i, {}, {}});
      BackwardItem& item = plan.backward.back();
      item.accumulate.reserve(op.inputs.size());
      op.at.diff_inputs.assign(op.inputs.size(), none);
      const std::size_t request = diff[at(op.output)].value();
      arena.extend(request, now);
      arena.bind(request, &op.at.diff_output);
      for (std::size_t k = 0; k < op.inputs.size(); ++k) {
        const ValueId v = op.inputs[k];
        if (!with_gradient[at(v)]) continue;
        const std::size_t own = arena.add(layer + ".diff" + std::to_string(k), value_bytes(v), now, now);
        arena.bind(own, &op.at.diff_inputs[k]);
        if (!diff[at(v)]) {
          diff[at(v)] = own;
          continue;
        }
        item.accumulate.push_back({none, none, plan.rows * layouts[at(v)].elements()});
        arena.bind(*diff[at(v)], &item.accumulate.back().dst);
        arena.bind(own, &item.accumulate.back().src);
        arena.extend(*diff[at(v)], now);
      }
    }
  }
  arena.finish();
  for (PlannedOp& op : plan.ops)
    for (const ValueId v : op.inputs) {
      const int of = graph.values[at(v)].lengths;
      op.at.input_lengths.push_back(of < 0 ? none : plan.lengths_offset + at(of) * length_bytes);
    }
}

}  // namespace

Plan make_plan(const Graph& graph, std::int64_t rows, bool training, int lanes, Precision precision) {
  require(rows >= 1 && lanes >= 1, "make_plan: rows and lanes must be positive");
  require(precision == Precision::fp32 || precision == Precision::bf16, "make_plan: fp32 or bf16");
  Plan plan;
  plan.rows = rows;
  plan.training = training;
  if (precision != Precision::fp32 && !graph.lengths.empty())
    throw ConfigError("model '" + graph.name +
                      "': sequences of different lengths are computed in fp32 on the CPU; "
                      "set train.precision = fp32");
  plan.precision = precision;
  std::vector<FusedOp> fused_ops = fuse_ops(graph);
  plan.layouts = choose_layouts(graph, precision);
  if (precision == Precision::bf16) choose_formats(graph, fused_ops, plan.layouts);
  const std::vector<bool> with_gradient = values_with_gradient(graph);
  for (FusedOp& fused : fused_ops) {
    KernelSpec spec;
    spec.graph = &graph;
    spec.node = fused.nodes.front();
    spec.rows = rows;
    spec.lanes = lanes;
    spec.training = training;
    spec.precision = precision;
    spec.relu = fused.relu;
    spec.residual = fused.residual;
    spec.diff_input = with_gradient[at(fused.inputs[0])];
    spec.independent = !training && !graph.lengths.empty();
    const OpEntry& entry = spec.op().attrs.entry();
    if (spec.independent && !entry.traits.independent && !entry.traits.has_independent_kernel)
      throw ConfigError("layer '" + spec.op().name + "': what " + entry.name +
                        " gives may depend on the length class, so it cannot stand in a model of sequences");
    for (const ValueId v : fused.inputs) spec.inputs.push_back(plan.layouts[at(v)]);
    spec.output = plan.layouts[at(fused.output)];
    PlannedOp op;
    op.kernel = make_kernel(spec);
    op.has_backward = training && with_gradient[at(fused.output)];
    op.nodes = std::move(fused.nodes);
    op.inputs = std::move(fused.inputs);
    op.output = fused.output;
    for (const int n : op.nodes)
      if (op.mask.lengths < 0) op.mask = padding_mask(graph, graph.nodes[at(n)], op.output);
    const Needs& needs = op.kernel->needs();
    plan.scratch_bytes = std::max(plan.scratch_bytes, align_up(needs.scratch, buffer_alignment));
    if (needs.prepared > 0) {
      op.at.prepared = plan.prepared_bytes;
      plan.prepared_bytes += align_up(needs.prepared, buffer_alignment);
    }
    plan.ops.push_back(std::move(op));
  }
  KernelSpec loss;
  loss.graph = &graph;
  loss.rows = rows;
  loss.training = training;
  loss.inputs = {plain_layout(graph.shape_of(graph.output))};
  loss.output = loss.inputs[0];
  plan.loss.kernel = make_kernel(loss);
  lay_out_flat(graph, plan);
  lay_out_arena(graph, plan);
  return plan;
}

}  // namespace lockstep::cpu
