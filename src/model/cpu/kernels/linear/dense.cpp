#include "model/ops/linear/dense.h"

#include <algorithm>

#include "device/lane_pool.h"
#include "model/cpu/kernels/kernel.h"
#include "model/cpu/kernels/linear/dense_bf16.h"
#include "model/cpu/kernels/linear/dense_independent.h"
#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/onednn/onednn_api.h"
#include "model/cpu/onednn/onednn_loops.h"
#include "model/cpu/onednn/onednn_prepared.h"

namespace lockstep::cpu {

namespace {

using dnnl::memory;
using Tag = memory::format_tag;

memory::desc matrix(std::int64_t rows, std::int64_t columns, Tag tag) {
  return {{rows, columns}, memory::data_type::f32, tag};
}

/// One of the three products, for a part of the layer.
struct DenseCall {
  OnednnCall call;  ///< addresses: left operand, weights or right operand, bias, result, scratch pad
  std::size_t pad_bytes = 0;
  std::string implementation;
};

/// Wide layers keep their weights in blocks of (16 inputs, 64 outputs), which oneDNN's inner product reads
/// and writes without conversion; the data gradient reads a transposed copy, made once a step (1.4 ms for
/// 2048 x 2048, against 0.7 ms that each slice would spend on transposing). Narrow layers stay plain and use
/// matmul, which takes 0.18 ms where blocks take 0.27 ms (5408-10, 64 rows, all three products).
///
/// Parts are ranges of outputs (forward, weight gradient) or inputs (data gradient). oneDNN 2.6 has no fast
/// kernel for a matrix whose rows lie further apart than they are long, so a part goes through scratch.
class Dense final : public Kernel {
 public:
  explicit Dense(const KernelSpec& spec);

  const Needs& needs() const override { return needs_; }
  std::string implementation() const override { return implementation_; }
  std::span<const Phase> prepare_phases() const override { return prepare_phases_; }
  std::span<const Phase> forward_phases() const override { return forward_phases_; }
  std::span<const Phase> backward_phases() const override { return backward_phases_; }
  void prepare(int phase, int task, const Binding& at, const TaskContext& ctx,
               std::byte* prepared) const override;
  void forward(int phase, int task, const Binding& at, const TaskContext& ctx) const override;
  void backward(int phase, int task, const Binding& at, const TaskContext& ctx) const override;
  void export_plain(std::size_t i, std::span<const float> stored, std::span<float> plain) const override;
  void import_plain(std::size_t i, std::span<const float> plain, std::span<float> stored) const override;

 private:
  bool library_takes_blocks() const;
  int parts_of(std::int64_t columns) const;
  DenseCall make_forward() const;
  DenseCall make_weights() const;
  DenseCall make_data();
  void weights_part(int part, const Binding& at, const TaskContext& ctx) const;
  void data_part(int part, const Binding& at, const TaskContext& ctx) const;
  std::int64_t part_outputs() const { return out_ / outputs_.tasks; }
  std::int64_t part_inputs() const { return in_ / inputs_.tasks; }

  OnednnContext context_;
  std::int64_t in_, out_;
  std::int64_t rows_;  // vectors of a slice: rows times positions
  bool bias_, relu_, diff_input_;
  bool blocked_;          // weights in blocks of (16 inputs, 64 outputs)
  memory::desc storage_;  // (out, in)
  TaskSplit outputs_, inputs_, mask_;
  DenseCall forward_, weights_, data_;
  PreparedWeights prepared_;
  std::vector<std::size_t> data_weights_;  // of each part of the inputs, in the prepared memory
  std::vector<Phase> prepare_phases_, forward_phases_, backward_phases_;
  std::string implementation_;
  Needs needs_;
};

Dense::Dense(const KernelSpec& spec)
    : context_(spec.lanes),
      in_(spec.graph->shape_of(spec.op().inputs[0]).dims().back()),
      out_(spec.graph->shape_of(spec.op().output).dims().back()),
      rows_(spec.rows * spec.output.elements() / out_),
      bias_(attrs_of<DenseAttrs>(spec).bias),
      relu_(spec.relu),
      diff_input_(spec.diff_input && spec.training) {
  blocked_ = out_ >= 64 && out_ % 64 == 0 && in_ % 16 == 0 && library_takes_blocks();
  storage_ = matrix(out_, in_, blocked_ ? Tag::AB16b64a : Tag::ab);
  outputs_ = {out_, parts_of(out_)};
  needs_.parameter_storage = {in_ * out_};
  if (bias_) needs_.parameter_storage.push_back(out_);

  forward_ = make_forward();
  implementation_ = forward_.implementation;
  forward_phases_ = {{outputs_.tasks}};
  const auto panel = [&](std::int64_t columns, int parts) {
    return parts > 1 ? ScratchCursor::padded(static_cast<std::size_t>(rows_ * columns) * sizeof(float)) : 0;
  };
  needs_.scratch = panel(part_outputs(), outputs_.tasks) + forward_.pad_bytes;
  if (!spec.training) return;

  needs_.needs_input_in_backward = true;
  needs_.needs_output_in_backward = relu_;
  weights_ = make_weights();
  implementation_ += "/" + weights_.implementation;
  needs_.scratch = std::max(needs_.scratch, panel(part_outputs(), outputs_.tasks) + weights_.pad_bytes);
  if (diff_input_) {
    inputs_ = {in_, blocked_ ? parts_of(in_) : 1};
    data_ = make_data();
    implementation_ += "/" + data_.implementation;
    needs_.scratch = std::max(
        {needs_.scratch, panel(part_inputs(), inputs_.tasks) + data_.pad_bytes, prepared_.scratch_bytes()});
    needs_.prepared = prepared_.bytes();
    if (prepared_.tasks() > 0) prepare_phases_ = {{prepared_.tasks()}};
  }
  if (relu_) {
    mask_ = split_work(rows_, 2 * rows_ * out_ * static_cast<std::int64_t>(sizeof(float)));
    backward_phases_.push_back({mask_.tasks});
  }
  backward_phases_.push_back({outputs_.tasks + (diff_input_ ? inputs_.tasks : 0)});
}

bool Dense::library_takes_blocks() const {
  // Asked for one fixed count of rows, so that every kernel of the node stores its weights alike.
  constexpr std::int64_t canonical_rows = 32;
  const auto src = matrix(canonical_rows, in_, Tag::ab), dst = matrix(canonical_rows, out_, Tag::ab);
  const auto weights = matrix(out_, in_, Tag::AB16b64a);
  const ProductTensors tensors{.input = src, .weights = weights, .bias = {}, .output = dst};
  const auto forward = describe_inner_product(context_.engine(), tensors, user_scratchpad(), IfNone::empty);
  if (!forward || implementation_grade(forward.impl_info_str()) < 2) return false;
  const auto backward =
      describe_inner_product_weights(context_.engine(), tensors, user_scratchpad(), forward, IfNone::empty);
  return backward && implementation_grade(backward.impl_info_str()) == 2;
}

int Dense::parts_of(std::int64_t columns) const {
  // By shapes alone; below about 16 MFLOP (0.1 ms) a part would cost more than it brings.
  const std::int64_t unit = blocked_ ? 64 : 16;
  for (const int parts : {4, 2})
    if (columns % (unit * parts) == 0 &&
        2 * rows_ * in_ * out_ >= 16'000'000 * static_cast<std::int64_t>(parts))
      return parts;
  return 1;
}

DenseCall Dense::make_forward() const {
  const auto attributes = relu_ ? user_scratchpad_with_relu() : user_scratchpad();
  const auto src = matrix(rows_, in_, Tag::ab), dst = matrix(rows_, part_outputs(), Tag::ab);
  DenseCall out;
  auto finish = [&](const auto& chosen, const dnnl::primitive& primitive, const memory::desc& weights,
                    const memory::desc& bias) {
    out.pad_bytes = chosen.scratchpad_desc().get_size();
    out.implementation = chosen.impl_info_str();
    out.call = OnednnCall(context_, primitive,
                          {{DNNL_ARG_SRC, src},
                           {DNNL_ARG_WEIGHTS, weights},
                           {DNNL_ARG_BIAS, bias},
                           {DNNL_ARG_DST, dst},
                           {DNNL_ARG_SCRATCHPAD, chosen.scratchpad_desc()}});
  };
  if (blocked_) {
    const auto weights = matrix(part_outputs(), in_, Tag::AB16b64a);
    const auto bias = bias_ ? memory::desc({part_outputs()}, memory::data_type::f32, Tag::a) : memory::desc();
    const auto chosen =
        describe_inner_product(context_.engine(), {src, weights, bias, dst}, attributes, IfNone::error);
    finish(chosen, dnnl::inner_product_forward(chosen), weights, bias);
  } else {
    const auto weights = matrix(in_, part_outputs(), Tag::ba);
    const auto bias = bias_ ? matrix(1, part_outputs(), Tag::ab) : memory::desc();
    const auto chosen = describe_matmul(context_.engine(), {src, weights, bias, dst}, attributes);
    finish(chosen, dnnl::matmul(chosen), weights, bias);
  }
  return out;
}

DenseCall Dense::make_weights() const {
  const auto src = matrix(rows_, in_, Tag::ab);
  DenseCall out;
  if (blocked_) {
    const auto diff = matrix(rows_, part_outputs(), Tag::ab);
    const auto weights = matrix(part_outputs(), in_, Tag::AB16b64a);
    const ProductTensors tensors{.input = src, .weights = weights, .bias = {}, .output = diff};
    const auto hint = describe_inner_product(context_.engine(), tensors, user_scratchpad(), IfNone::error);
    const auto chosen =
        describe_inner_product_weights(context_.engine(), tensors, user_scratchpad(), hint, IfNone::error);
    out.pad_bytes = chosen.scratchpad_desc().get_size();
    out.implementation = chosen.impl_info_str();
    out.call = OnednnCall(context_, dnnl::inner_product_backward_weights(chosen),
                          {{DNNL_ARG_DIFF_DST, diff},
                           {DNNL_ARG_SRC, src},
                           {DNNL_ARG_DIFF_WEIGHTS, weights},
                           {DNNL_ARG_SCRATCHPAD, chosen.scratchpad_desc()}});
    return out;
  }
  const auto diff = matrix(part_outputs(), rows_, Tag::ba);
  const auto weights = matrix(part_outputs(), in_, Tag::ab);
  const auto chosen = describe_matmul(context_.engine(), {diff, src, {}, weights}, user_scratchpad());
  out.pad_bytes = chosen.scratchpad_desc().get_size();
  out.implementation = chosen.impl_info_str();
  out.call = OnednnCall(context_, dnnl::matmul(chosen),
                        {{DNNL_ARG_SRC, diff},
                         {DNNL_ARG_WEIGHTS, src},
                         {DNNL_ARG_DST, weights},
                         {DNNL_ARG_SCRATCHPAD, chosen.scratchpad_desc()}});
  return out;
}

DenseCall Dense::make_data() {
  const auto diff = matrix(rows_, out_, Tag::ab);
  const auto weights = matrix(out_, part_inputs(), blocked_ ? Tag::any : Tag::ab);
  const auto result = matrix(rows_, part_inputs(), Tag::ab);
  const auto chosen = describe_matmul(context_.engine(), {diff, weights, {}, result}, user_scratchpad());
  for (int part = 0; part < inputs_.tasks; ++part)
    data_weights_.push_back(
        prepared_.add(context_, storage_, {0, part * part_inputs()}, chosen.weights_desc()));
  DenseCall out;
  out.pad_bytes = chosen.scratchpad_desc().get_size();
  out.implementation = chosen.impl_info_str();
  out.call = OnednnCall(context_, dnnl::matmul(chosen),
                        {{DNNL_ARG_SRC, diff},
                         {DNNL_ARG_WEIGHTS, chosen.weights_desc()},
                         {DNNL_ARG_DST, result},
                         {DNNL_ARG_SCRATCHPAD, chosen.scratchpad_desc()}});
  return out;
}

void Dense::prepare(int, int task, const Binding& at, const TaskContext& ctx, std::byte* prepared) const {
  prepared_.run(ctx.lane, task, ctx.parameters + at.parameters[0], prepared + at.prepared, ctx.scratch);
}

void Dense::forward(int, int task, const Binding& at, const TaskContext& ctx) const {
  const std::int64_t first = task * part_outputs();
  float* output = floats(ctx.arena, at.output);
  const float* bias = bias_ ? ctx.parameters + at.parameters[1] + first : nullptr;
  ScratchCursor cursor(ctx.scratch);
  const bool whole = outputs_.tasks == 1;
  auto* result = whole ? output
                       : reinterpret_cast<float*>(
                             cursor.take(static_cast<std::size_t>(rows_ * part_outputs()) * sizeof(float)));
  forward_.call.run(ctx.lane,
                    {floats(ctx.arena, at.inputs[0]), ctx.parameters + at.parameters[0] + first * in_, bias,
                     result, cursor.take(0)});
  if (!whole) copy_columns(output + first, out_, result, part_outputs(), rows_, part_outputs());
}

void Dense::backward(int phase, int task, const Binding& at, const TaskContext& ctx) const {
  if (relu_ && phase == 0) {
    const Range rows = mask_.part(task);
    mask_by_output(floats(ctx.arena, at.diff_output) + rows.begin * out_,
                   floats(ctx.arena, at.output) + rows.begin * out_, rows.size() * out_);
    return;
  }
  if (task < outputs_.tasks)
    weights_part(task, at, ctx);
  else
    data_part(task - outputs_.tasks, at, ctx);
}

void Dense::weights_part(int part, const Binding& at, const TaskContext& ctx) const {
  const std::int64_t columns = part_outputs(), first = part * columns;
  const float* diff = floats(ctx.arena, at.diff_output) + first;
  if (bias_) sum_rows(ctx.gradients + at.parameters[1] + first, diff, rows_, columns, out_);
  ScratchCursor cursor(ctx.scratch);
  if (outputs_.tasks > 1) {
    auto* own =
        reinterpret_cast<float*>(cursor.take(static_cast<std::size_t>(rows_ * columns) * sizeof(float)));
    copy_columns(own, columns, diff, out_, rows_, columns);
    diff = own;
  }
  weights_.call.run(ctx.lane, {diff, floats(ctx.arena, at.inputs[0]),
                               ctx.gradients + at.parameters[0] + first * in_, cursor.take(0)});
}

void Dense::data_part(int part, const Binding& at, const TaskContext& ctx) const {
  float* diff = diff_input(at, ctx, 0);
  if (diff == nullptr) return;
  const std::int64_t columns = part_inputs(), first = part * columns;
  const std::size_t prepared = data_weights_[static_cast<std::size_t>(part)];
  const void* weights = ctx.parameters + at.parameters[0];
  if (prepared != PreparedWeights::stored) weights = ctx.prepared + at.prepared + prepared;
  ScratchCursor cursor(ctx.scratch);
  const bool whole = inputs_.tasks == 1;
  auto* result =
      whole
          ? diff
          : reinterpret_cast<float*>(cursor.take(static_cast<std::size_t>(rows_ * columns) * sizeof(float)));
  data_.call.run(ctx.lane, {floats(ctx.arena, at.diff_output), weights, result, cursor.take(0)});
  if (!whole) copy_columns(diff + first, in_, result, columns, rows_, columns);
}

void Dense::export_plain(std::size_t i, std::span<const float> stored, std::span<float> plain) const {
  if (i > 0 || !blocked_) return Kernel::export_plain(i, stored, plain);
  require(stored.size_bytes() == storage_.get_size() && plain.size() == stored.size(),
          "dense: weights of another size");
  reorder_once(context_, storage_, stored.data(), matrix(out_, in_, Tag::ab), plain.data());
}

void Dense::import_plain(std::size_t i, std::span<const float> plain, std::span<float> stored) const {
  if (i > 0 || !blocked_) return Kernel::import_plain(i, plain, stored);
  require(stored.size_bytes() == storage_.get_size() && plain.size() == stored.size(),
          "dense: weights of another size");
  reorder_once(context_, matrix(out_, in_, Tag::ab), plain.data(), storage_, stored.data());
}

}  // namespace

std::unique_ptr<Kernel> make_dense(const KernelSpec& spec) {
  prepare_compute_thread();
  if (spec.precision == Precision::bf16) return make_dense_bf16(spec);
  auto kernel = with_onednn("make a dense layer",
                            [&]() -> std::unique_ptr<Kernel> { return std::make_unique<Dense>(spec); });
  return spec.independent ? make_independent_dense(spec, std::move(kernel)) : std::move(kernel);
}

}  // namespace lockstep::cpu
