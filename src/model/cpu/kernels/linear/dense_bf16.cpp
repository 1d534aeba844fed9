#include "model/cpu/kernels/linear/dense_bf16.h"

#include <algorithm>

#include "device/lane_pool.h"
#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/onednn/onednn_api.h"
#include "model/cpu/onednn/onednn_loops.h"
#include "model/cpu/onednn/onednn_prepared.h"
#include "model/ops/linear/dense.h"

namespace lockstep::cpu {

namespace {

using dnnl::memory;
using Tag = memory::format_tag;

memory::desc matrix(std::int64_t rows, std::int64_t columns, Tag tag, NumberFormat format) {
  return {{rows, columns}, onednn_type(format), tag};
}

std::uint16_t* halves(std::byte* base, std::size_t offset) {
  return reinterpret_cast<std::uint16_t*>(base + offset);
}

/// One of the three products, for a part of the layer. Addresses: left operand, right operand, bias, result,
/// scratch pad.
struct Product {
  OnednnCall call;
  memory::desc right;  ///< the layout in which the right operand is read
  std::size_t pad_bytes = 0;
  std::string implementation;
};

/// The three products of a dense layer with factors in bfloat16 and sums in float32. Weights are stored plain
/// and read from copies, rounded once a step, one for each direction. What comes in as float32 is rounded
/// once too: the input before the forward pass (the copy is kept for the weight gradient), the gradient of
/// the output before the backward pass, behind the ReLU where there is one.
///
/// Parts are ranges of outputs (forward, weight gradient) or inputs (data gradient), as in float32.
class DenseBf16 final : public Kernel {
 public:
  explicit DenseBf16(const KernelSpec& spec);

  const Needs& needs() const override { return needs_; }
  std::string implementation() const override { return implementation_; }
  std::span<const Phase> prepare_phases() const override { return prepare_phases_; }
  std::span<const Phase> forward_phases() const override { return forward_phases_; }
  std::span<const Phase> backward_phases() const override { return backward_phases_; }
  void prepare(int phase, int task, const Binding& at, const TaskContext& ctx,
               std::byte* prepared) const override;
  void forward(int phase, int task, const Binding& at, const TaskContext& ctx) const override;
  void backward(int phase, int task, const Binding& at, const TaskContext& ctx) const override;

 private:
  int parts_of(std::int64_t columns) const;
  Product multiply(const memory::desc& left, const memory::desc& right, const memory::desc& bias,
                   const memory::desc& result, const dnnl::primitive_attr& attributes) const;
  void plan_backward();
  /// Scratch of a part of so many columns, where there are several parts.
  std::size_t panel(int parts, std::int64_t columns, NumberFormat format) const {
    return parts > 1 ? ScratchCursor::padded(static_cast<std::size_t>(rows_ * columns) * bytes_of(format))
                     : 0;
  }
  void run_part(const Product& product, const void* left, const void* right, const float* bias,
                std::byte* result, NumberFormat format, const TaskSplit& parts, int part,
                const TaskContext& ctx) const;
  void weights_part(int part, const Binding& at, const TaskContext& ctx) const;
  /// In bfloat16: the input, and the gradient of the output behind the ReLU.
  const std::uint16_t* input(const Binding& at, const TaskContext& ctx) const {
    return halves(ctx.arena, rounds_input_ ? at.saved : at.inputs[0]);
  }
  std::uint16_t* diff(const Binding& at, const TaskContext& ctx) const {
    return halves(ctx.arena, rounds_diff_ ? at.work : at.diff_output);
  }

  OnednnContext context_;
  std::int64_t in_, out_;
  std::int64_t rows_;  // vectors of a slice: rows times positions
  NumberFormat input_format_, output_format_;
  bool bias_, relu_, diff_input_;
  bool rounds_input_, rounds_diff_;
  TaskSplit outputs_, inputs_, input_rows_, diff_rows_;
  Product forward_, weights_, data_;
  PreparedWeights prepared_;
  std::vector<std::size_t> forward_weights_, data_weights_;  // of each part, in the prepared memory
  std::vector<Phase> prepare_phases_, forward_phases_, backward_phases_;
  std::string implementation_;
  Needs needs_;
};

DenseBf16::DenseBf16(const KernelSpec& spec)
    : context_(spec.lanes),
      in_(spec.graph->shape_of(spec.op().inputs[0]).dims().back()),
      out_(spec.graph->shape_of(spec.op().output).dims().back()),
      rows_(spec.rows * spec.output.elements() / out_),
      input_format_(spec.inputs.at(0).format),
      output_format_(spec.output.format),
      bias_(attrs_of<DenseAttrs>(spec).bias),
      relu_(spec.relu),
      diff_input_(spec.diff_input && spec.training),
      rounds_input_(input_format_ == NumberFormat::fp32),
      rounds_diff_(output_format_ == NumberFormat::fp32) {
  needs_.parameter_storage = {in_ * out_};
  if (bias_) needs_.parameter_storage.push_back(out_);
  outputs_ = {out_, parts_of(out_)};
  const std::int64_t columns = out_ / outputs_.tasks;
  forward_ = multiply(matrix(rows_, in_, Tag::ab, NumberFormat::bf16),
                      matrix(in_, columns, Tag::any, NumberFormat::bf16),
                      bias_ ? matrix(1, columns, Tag::ab, NumberFormat::fp32) : memory::desc(),
                      matrix(rows_, columns, Tag::ab, output_format_),
                      relu_ ? user_scratchpad_with_relu() : user_scratchpad());
  const auto transposed = matrix(in_, out_, Tag::ba, NumberFormat::fp32);  // the stored weights are (out, in)
  for (int part = 0; part < outputs_.tasks; ++part)
    forward_weights_.push_back(prepared_.add(context_, transposed, {0, part * columns}, forward_.right));
  implementation_ = forward_.implementation;
  needs_.scratch = panel(outputs_.tasks, columns, output_format_) + forward_.pad_bytes;
  if (rounds_input_) {
    input_rows_ = split_work(rows_, 6 * rows_ * in_);
    needs_.saved = static_cast<std::size_t>(rows_ * in_) * bytes_of(NumberFormat::bf16);
    forward_phases_.push_back({input_rows_.tasks});
  }
  forward_phases_.push_back({outputs_.tasks});
  if (spec.training) plan_backward();
  needs_.scratch = std::max(needs_.scratch, prepared_.scratch_bytes());
  needs_.prepared = prepared_.bytes();
  prepare_phases_ = {{prepared_.tasks()}};
}

void DenseBf16::plan_backward() {
  needs_.needs_input_in_backward = !rounds_input_;
  needs_.needs_output_in_backward = relu_;
  const std::int64_t columns = out_ / outputs_.tasks;
  weights_ = multiply(matrix(columns, rows_, Tag::ba, NumberFormat::bf16),
                      matrix(rows_, in_, Tag::ab, NumberFormat::bf16), {},
                      matrix(columns, in_, Tag::ab, NumberFormat::fp32), user_scratchpad());
  implementation_ += "/" + weights_.implementation;
  needs_.scratch =
      std::max(needs_.scratch, panel(outputs_.tasks, columns, NumberFormat::bf16) + weights_.pad_bytes);
  if (diff_input_) {
    inputs_ = {in_, parts_of(in_)};
    const std::int64_t width = in_ / inputs_.tasks;
    data_ = multiply(matrix(rows_, out_, Tag::ab, NumberFormat::bf16),
                     matrix(out_, width, Tag::any, NumberFormat::bf16), {},
                     matrix(rows_, width, Tag::ab, input_format_), user_scratchpad());
    for (int part = 0; part < inputs_.tasks; ++part)
      data_weights_.push_back(prepared_.add(context_, matrix(out_, in_, Tag::ab, NumberFormat::fp32),
                                            {0, part * width}, data_.right));
    implementation_ += "/" + data_.implementation;
    needs_.scratch = std::max(needs_.scratch, panel(inputs_.tasks, width, input_format_) + data_.pad_bytes);
  }
  if (rounds_diff_) needs_.work = static_cast<std::size_t>(rows_ * out_) * bytes_of(NumberFormat::bf16);
  if (rounds_diff_ || relu_) {
    diff_rows_ = split_work(rows_, 8 * rows_ * out_);
    backward_phases_.push_back({diff_rows_.tasks});
  }
  backward_phases_.push_back({outputs_.tasks + (diff_input_ ? inputs_.tasks : 0)});
}

int DenseBf16::parts_of(std::int64_t columns) const {
  // By shapes alone; with AMX a part of 50 MFLOP takes about 0.15 ms.
  constexpr std::int64_t unit = 64, part_flops = 50'000'000;
  for (const int parts : {4, 2})
    if (columns % (unit * parts) == 0 && 2 * rows_ * in_ * out_ >= part_flops * parts) return parts;
  return 1;
}

Product DenseBf16::multiply(const memory::desc& left, const memory::desc& right, const memory::desc& bias,
                            const memory::desc& result, const dnnl::primitive_attr& attributes) const {
  const auto chosen = describe_matmul(context_.engine(), {left, right, bias, result}, attributes);
  Product out;
  out.right = chosen.weights_desc();
  out.pad_bytes = chosen.scratchpad_desc().get_size();
  out.implementation = chosen.impl_info_str();
  out.call = OnednnCall(context_, dnnl::matmul(chosen),
                        {{DNNL_ARG_SRC, left},
                         {DNNL_ARG_WEIGHTS, out.right},
                         {DNNL_ARG_BIAS, bias},
                         {DNNL_ARG_DST, result},
                         {DNNL_ARG_SCRATCHPAD, chosen.scratchpad_desc()}});
  return out;
}

void DenseBf16::prepare(int, int task, const Binding& at, const TaskContext& ctx, std::byte* prepared) const {
  prepared_.run(ctx.lane, task, ctx.parameters + at.parameters[0], prepared + at.prepared, ctx.scratch);
}

void DenseBf16::run_part(const Product& product, const void* left, const void* right, const float* bias,
                         std::byte* result, NumberFormat format, const TaskSplit& parts, int part,
                         const TaskContext& ctx) const {
  const auto bytes = static_cast<std::int64_t>(bytes_of(format));
  const std::int64_t columns = parts.count / parts.tasks;
  ScratchCursor cursor(ctx.scratch);
  if (parts.tasks == 1) {
    product.call.run(ctx.lane, {left, right, bias, result, cursor.take(0)});
    return;
  }
  std::byte* own = cursor.take(static_cast<std::size_t>(rows_ * columns * bytes));
  product.call.run(ctx.lane, {left, right, bias, own, cursor.take(0)});
  copy_columns(result + part * columns * bytes, parts.count * bytes, own, columns * bytes, rows_,
               columns * bytes);
}

void DenseBf16::forward(int phase, int task, const Binding& at, const TaskContext& ctx) const {
  if (rounds_input_ && phase == 0) {
    const Range rows = input_rows_.part(task);
    round_to_bf16(halves(ctx.arena, at.saved) + rows.begin * in_,
                  floats(ctx.arena, at.inputs[0]) + rows.begin * in_, rows.size() * in_);
    return;
  }
  const std::int64_t first = task * (out_ / outputs_.tasks);
  run_part(forward_, input(at, ctx),
           ctx.prepared + at.prepared + forward_weights_[static_cast<std::size_t>(task)],
           bias_ ? ctx.parameters + at.parameters[1] + first : nullptr, ctx.arena + at.output, output_format_,
           outputs_, task, ctx);
}

void DenseBf16::backward(int phase, int task, const Binding& at, const TaskContext& ctx) const {
  if (backward_phases_.size() > 1 && phase == 0) {
    const Range rows = diff_rows_.part(task);
    const std::int64_t first = rows.begin * out_, count = rows.size() * out_;
    if (!rounds_diff_)
      mask_by_output(halves(ctx.arena, at.diff_output) + first, halves(ctx.arena, at.output) + first, count);
    else if (relu_)
      round_masked(halves(ctx.arena, at.work) + first, floats(ctx.arena, at.diff_output) + first,
                   floats(ctx.arena, at.output) + first, count);
    else
      round_to_bf16(halves(ctx.arena, at.work) + first, floats(ctx.arena, at.diff_output) + first, count);
    return;
  }
  if (task < outputs_.tasks) {
    weights_part(task, at, ctx);
    return;
  }
  if (at.diff_inputs.empty() || at.diff_inputs[0] == none) return;
  const int part = task - outputs_.tasks;
  run_part(data_, diff(at, ctx), ctx.prepared + at.prepared + data_weights_[static_cast<std::size_t>(part)],
           nullptr, ctx.arena + at.diff_inputs[0], input_format_, inputs_, part, ctx);
}

void DenseBf16::weights_part(int part, const Binding& at, const TaskContext& ctx) const {
  const std::int64_t columns = out_ / outputs_.tasks, first = part * columns;
  const std::uint16_t* of_part = diff(at, ctx) + first;
  if (bias_) sum_rows(ctx.gradients + at.parameters[1] + first, of_part, rows_, columns, out_);
  ScratchCursor cursor(ctx.scratch);
  if (outputs_.tasks > 1) {
    constexpr std::int64_t bytes = bytes_of(NumberFormat::bf16);
    std::byte* own = cursor.take(static_cast<std::size_t>(rows_ * columns * bytes));
    copy_columns(own, columns * bytes, reinterpret_cast<const std::byte*>(of_part), out_ * bytes, rows_,
                 columns * bytes);
    of_part = reinterpret_cast<const std::uint16_t*>(own);
  }
  weights_.call.run(ctx.lane, {of_part, input(at, ctx), nullptr,
                               ctx.gradients + at.parameters[0] + first * in_, cursor.take(0)});
}

}  // namespace

std::unique_ptr<Kernel> make_dense_bf16(const KernelSpec& spec) {
  return with_onednn("make a dense layer in bf16", [&] { return std::make_unique<DenseBf16>(spec); });
}

}  // namespace lockstep::cpu
