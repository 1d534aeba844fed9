#include "model/ops/linear/conv2d.h"

#include <algorithm>
#include <cstring>

#include "device/lane_pool.h"
#include "model/cpu/kernels/kernel.h"
#include "model/cpu/kernels/linear/conv2d_choice.h"
#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/onednn/onednn_api.h"
#include "model/cpu/onednn/onednn_loops.h"
#include "model/cpu/onednn/onednn_prepared.h"

namespace lockstep::cpu {

namespace {

/// Parts by shapes alone. Below about 16 MFLOP (0.1 ms) a part would cost more than it brings. In bf16 the
/// time of late layers is that of reading their weights, which every part does: there are no more parts than
/// the values of a slice are times as many as the weights.
int parts_of(const ConvShape& shape, std::int64_t rows) {
  constexpr double part_flops = 16e6;
  std::int64_t most = 4;
  if (shape.factors == NumberFormat::bf16)
    most =
        std::min(most, rows * (shape.input_elements() + shape.output_elements()) / shape.weight_elements());
  return static_cast<int>(std::clamp<std::int64_t>(static_cast<std::int64_t>(shape.flops(rows) / part_flops),
                                                   1, std::max<std::int64_t>(1, std::min(rows, most))));
}

/// One direction for every part of the rows: parts differ by one row at most, so two sizes do.
struct RowCalls {
  ConvCall small, large;
  std::size_t small_weights = PreparedWeights::stored, large_weights = PreparedWeights::stored;
};

/// Forward and data gradient: parts of the rows. Weight gradient, by size:
/// - few weights (early layers): the same tasks take it, each for its rows, into partial sums that a second
/// phase
///   adds in order; the gradient of the output is then read while it is in the cache.
/// - many weights (late layers): parts of the output channels beside the parts of the data gradient. Measured
///   (AVX-512, one thread, 16 rows), the whole of 512-512, 4x4 runs at 122 GFLOP/s, four parts at 145, eight
///   at 166; 256-512 with stride 2 at 103, 135 and 139.
/// In bf16 what comes in as float32 is rounded once: the input before the forward pass (the copy is kept for
/// the weight gradient), the gradient of the output behind the ReLU where there is one.
class Conv2d final : public Kernel {
 public:
  explicit Conv2d(const KernelSpec& spec);

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
  enum class Step { diff, rows, parts, sum };  ///< what a phase of the backward pass does

  void plan_backward();
  RowCalls calls_for(ConvDirection direction, const dnnl::memory::desc& weights) const;
  void prepare_for(RowCalls& calls);
  void place_rounded_diff();
  void note_scratch(std::size_t bytes) { needs_.scratch = std::max(needs_.scratch, bytes); }
  const void* weights_at(std::size_t prepared, const Binding& at, const TaskContext& ctx) const;
  std::int64_t bias_at(const Binding& at) const { return shape_.bias ? at.parameters[1] : at.parameters[0]; }
  const ConvCall& size_for(const RowCalls& calls, Range rows) const {
    return rows.size() == rows_.count / rows_.tasks ? calls.small : calls.large;
  }

  /// Takes the gradient of the output back through the ReLU, and rounds it where it must be.
  void prepare_diff(Range rows, const Binding& at, const TaskContext& ctx) const;
  void data_rows(Range rows, const Binding& at, const TaskContext& ctx) const;
  void weights_of_rows(int part, Range rows, const Binding& at, const TaskContext& ctx) const;
  void weights_of_channels(int part, const Binding& at, const TaskContext& ctx) const;
  float* partial(int part, const Binding& at, const TaskContext& ctx) const;
  /// Factors of products, from this row on: the input, and the gradient of the output.
  const std::byte* input(std::int64_t row, const Binding& at, const TaskContext& ctx) const {
    if (!rounds_input_) return ctx.arena + at.inputs[0] + static_cast<std::size_t>(row) * input_bytes_;
    return ctx.arena + at.saved + static_cast<std::size_t>(row * shape_.input_elements()) * half;
  }
  std::byte* diff(std::int64_t row, const Binding& at, const TaskContext& ctx) const {
    if (!rounds_diff_) return ctx.arena + at.diff_output + static_cast<std::size_t>(row) * output_bytes_;
    return ctx.arena + at.work + rounded_diff_ +
           static_cast<std::size_t>(row * shape_.output_elements()) * half;
  }
  static constexpr std::size_t half = bytes_of(NumberFormat::bf16);

  OnednnContext context_;
  ConvShape shape_;
  TaskSplit rows_;
  bool diff_input_, training_;
  std::size_t input_bytes_, output_bytes_;  // of a row of the plan's values
  bool rounds_input_, rounds_diff_;
  dnnl::memory::desc storage_;
  PreparedWeights prepared_;
  RowCalls forward_, data_, weights_;
  TaskSplit channels_;  // of the weight gradient, when it goes by channels
  ConvCall channel_weights_;
  TaskSplit sum_;  // of the sum of partial weight gradients
  std::size_t partial_floats_ = 0;
  std::size_t rounded_diff_ = 0;  // where it lies in the work area
  std::vector<Step> steps_;
  std::vector<Phase> prepare_phases_, forward_phases_, backward_phases_;
  std::string implementation_;
  Needs needs_;
};

Conv2d::Conv2d(const KernelSpec& spec)
    : context_(spec.lanes),
      shape_(spec),
      rows_{spec.rows, parts_of(shape_, spec.rows)},
      diff_input_(spec.diff_input),
      training_(spec.training),
      input_bytes_(spec.inputs.at(0).bytes()),
      output_bytes_(spec.output.bytes()),
      rounds_input_(shape_.factors != shape_.input_format),
      rounds_diff_(shape_.factors != shape_.output_format),
      storage_(weight_storage(context_, shape_)) {
  needs_.parameter_storage.push_back(static_cast<std::int64_t>(storage_.get_size() / sizeof(float)));
  if (shape_.bias) needs_.parameter_storage.push_back(shape_.out_channels);
  if (rounds_input_) needs_.saved = static_cast<std::size_t>(rows_.count * shape_.input_elements()) * half;
  forward_ = calls_for(ConvDirection::forward,
                       shape_.weights(ConvDirection::forward, dnnl::memory::format_tag::any));
  prepare_for(forward_);
  implementation_ = forward_.small.implementation();
  forward_phases_ = {{rows_.tasks}};
  if (training_) plan_backward();
  if (prepared_.tasks() > 0) prepare_phases_ = {{prepared_.tasks()}};
  needs_.prepared = prepared_.bytes();
  note_scratch(prepared_.scratch_bytes());
}

RowCalls Conv2d::calls_for(ConvDirection direction, const dnnl::memory::desc& weights) const {
  RowCalls calls;
  calls.small = ConvCall(context_, shape_, direction, rows_.count / rows_.tasks, weights);
  require(calls.small.weights().get_size() > 0, "conv2d: oneDNN has no implementation for this convolution");
  if (rows_.count % rows_.tasks != 0) {
    calls.large = ConvCall(context_, shape_, direction, rows_.count / rows_.tasks + 1, weights);
    require(calls.large.weights().get_size() > 0,
            "conv2d: oneDNN has no implementation for this convolution");
  }
  return calls;
}

void Conv2d::prepare_for(RowCalls& calls) {
  const dnnl::memory::dims origin(layout_of(storage_).dims.size(), 0);
  calls.small_weights = prepared_.add(context_, storage_, origin, calls.small.weights());
  note_scratch(calls.small.scratch_bytes());
  if (calls.large.weights().get_size() == 0) return;
  calls.large_weights = prepared_.add(context_, storage_, origin, calls.large.weights());
  note_scratch(calls.large.scratch_bytes());
}

void Conv2d::plan_backward() {
  needs_.needs_input_in_backward = !rounds_input_;
  needs_.needs_output_in_backward = shape_.relu;
  if (diff_input_) {
    data_ =
        calls_for(ConvDirection::data, shape_.weights(ConvDirection::data, dnnl::memory::format_tag::any));
    prepare_for(data_);
    implementation_ += "/" + data_.small.implementation();
  }
  const std::size_t weight_bytes = storage_.get_size();
  const std::size_t output_bytes =
      static_cast<std::size_t>(rows_.count * shape_.output_elements()) * sizeof(float);
  if (static_cast<std::size_t>(rows_.tasks - 1) * weight_bytes <= output_bytes) {
    weights_ = calls_for(ConvDirection::weights, storage_);
    note_scratch(weights_.small.scratch_bytes());
    note_scratch(weights_.large.scratch_bytes());
    implementation_ += "/" + weights_.small.implementation();
    steps_ = {Step::rows};
    backward_phases_ = {{rows_.tasks}};
    if (rows_.tasks > 1) {
      const auto bias_bytes = static_cast<std::size_t>(shape_.bias ? shape_.out_channels : 0) * sizeof(float);
      partial_floats_ =
          (ScratchCursor::padded(weight_bytes) + ScratchCursor::padded(bias_bytes)) / sizeof(float);
      needs_.work = static_cast<std::size_t>(rows_.tasks - 1) * partial_floats_ * sizeof(float);
      sum_ = split_work(static_cast<std::int64_t>(weight_bytes / sizeof(float)),
                        static_cast<std::int64_t>(weight_bytes) * rows_.tasks);
      steps_.push_back(Step::sum);
      backward_phases_.push_back({sum_.tasks});
    }
    place_rounded_diff();
    return;
  }
  place_rounded_diff();
  // A part of the channels is one range of each row where channels are outermost.
  const bool outermost =
      shape_.factors == NumberFormat::fp32 && shape_.output_layout != dnnl::memory::format_tag::nhwc;
  const std::int64_t unit = shape_.output_layout == dnnl::memory::format_tag::nchw ? 1 : 16;
  channels_ = {shape_.out_channels, 1};
  for (const int parts : {8, 4, 2}) {
    if (parts == 8 && shape_.out_channels < 8 * 32) continue;
    if (!outermost || shape_.groups > 1 || shape_.out_channels % (unit * parts) != 0) continue;
    const ConvShape part = shape_.with_outputs(shape_.out_channels / parts);
    const dnnl::memory::desc stored = storage_of_outputs(storage_, part);
    if (stored.get_size() == 0) continue;
    ConvCall call(context_, part, ConvDirection::weights, rows_.count, stored);
    if (call.weights().get_size() == 0 || call.converts() || implementation_grade(call.implementation()) < 2)
      continue;
    channels_.tasks = parts;
    channel_weights_ = std::move(call);
    break;
  }
  std::size_t own = 0;
  if (channels_.tasks == 1) {
    channel_weights_ = ConvCall(context_, shape_, ConvDirection::weights, rows_.count, storage_);
    require(channel_weights_.weights().get_size() > 0,
            "conv2d: oneDNN has no weight gradient for this convolution");
  } else {
    own = ScratchCursor::padded(output_bytes / static_cast<std::size_t>(channels_.tasks));
  }
  note_scratch(channel_weights_.scratch_bytes() + own);
  implementation_ += "/" + channel_weights_.implementation();
  if (shape_.relu || rounds_diff_) {
    steps_.push_back(Step::diff);
    backward_phases_.push_back({rows_.tasks});
  }
  steps_.push_back(Step::parts);
  backward_phases_.push_back({channels_.tasks + (diff_input_ ? rows_.tasks : 0)});
}

void Conv2d::place_rounded_diff() {
  if (!rounds_diff_) return;
  rounded_diff_ = needs_.work;
  needs_.work += static_cast<std::size_t>(rows_.count * shape_.output_elements()) * half;
}

const void* Conv2d::weights_at(std::size_t prepared, const Binding& at, const TaskContext& ctx) const {
  if (prepared == PreparedWeights::stored) return ctx.parameters + at.parameters[0];
  return ctx.prepared + at.prepared + prepared;
}

void Conv2d::prepare(int, int task, const Binding& at, const TaskContext& ctx, std::byte* prepared) const {
  prepared_.run(ctx.lane, task, ctx.parameters + at.parameters[0], prepared + at.prepared, ctx.scratch);
}

void Conv2d::forward(int, int task, const Binding& at, const TaskContext& ctx) const {
  const Range rows = rows_.part(task);
  const ConvCall& call = size_for(forward_, rows);
  const std::size_t weights = &call == &forward_.small ? forward_.small_weights : forward_.large_weights;
  if (rounds_input_)
    round_to_bf16(
        reinterpret_cast<std::uint16_t*>(ctx.arena + at.saved) + rows.begin * shape_.input_elements(),
        floats(ctx.arena, at.inputs[0]) + rows.begin * shape_.input_elements(),
        rows.size() * shape_.input_elements());
  call.run(ctx.lane, input(rows.begin, at, ctx), weights_at(weights, at, ctx), ctx.parameters + bias_at(at),
           ctx.arena + at.output + static_cast<std::size_t>(rows.begin) * output_bytes_, ctx.scratch);
}

void Conv2d::backward(int phase, int task, const Binding& at, const TaskContext& ctx) const {
  switch (steps_[static_cast<std::size_t>(phase)]) {
    case Step::diff:
      prepare_diff(rows_.part(task), at, ctx);
      return;
    case Step::rows: {
      const Range rows = rows_.part(task);
      prepare_diff(rows, at, ctx);
      data_rows(rows, at, ctx);
      weights_of_rows(task, rows, at, ctx);
      return;
    }
    case Step::parts:
      // The longer tasks first.
      if (task < channels_.tasks)
        weights_of_channels(task, at, ctx);
      else
        data_rows(rows_.part(task - channels_.tasks), at, ctx);
      return;
    case Step::sum: {
      const Range range = sum_.part(task);
      for (int part = 1; part < rows_.tasks; ++part) {
        add_part(ctx.gradients + at.parameters[0] + range.begin, partial(part, at, ctx) + range.begin,
                 range.size());
        if (task == 0 && shape_.bias)
          add_part(ctx.gradients + at.parameters[1],
                   partial(part, at, ctx) + ScratchCursor::padded(storage_.get_size()) / sizeof(float),
                   shape_.out_channels);
      }
      return;
    }
  }
}

void Conv2d::prepare_diff(Range rows, const Binding& at, const TaskContext& ctx) const {
  const std::int64_t begin = rows.begin * shape_.output_elements();
  const std::int64_t count = rows.size() * shape_.output_elements();
  const auto bf16 = [](std::byte* values) { return reinterpret_cast<std::uint16_t*>(values); };
  if (rounds_diff_) {
    const float* from = floats(ctx.arena, at.diff_output) + begin;
    if (shape_.relu)
      round_masked(bf16(diff(rows.begin, at, ctx)), from, floats(ctx.arena, at.output) + begin, count);
    else
      round_to_bf16(bf16(diff(rows.begin, at, ctx)), from, count);
    return;
  }
  if (!shape_.relu) return;
  if (shape_.output_format == NumberFormat::bf16)
    mask_by_output(bf16(diff(rows.begin, at, ctx)), bf16(ctx.arena + at.output) + begin, count);
  else
    mask_by_output(floats(ctx.arena, at.diff_output) + begin, floats(ctx.arena, at.output) + begin, count);
}

void Conv2d::data_rows(Range rows, const Binding& at, const TaskContext& ctx) const {
  if (!diff_input_ || at.diff_inputs.empty() || at.diff_inputs[0] == none) return;
  const ConvCall& call = size_for(data_, rows);
  const std::size_t weights = &call == &data_.small ? data_.small_weights : data_.large_weights;
  call.run(ctx.lane, ctx.arena + at.diff_inputs[0] + static_cast<std::size_t>(rows.begin) * input_bytes_,
           weights_at(weights, at, ctx), nullptr, diff(rows.begin, at, ctx), ctx.scratch);
}

float* Conv2d::partial(int part, const Binding& at, const TaskContext& ctx) const {
  return floats(ctx.arena, at.work) + static_cast<std::size_t>(part - 1) * partial_floats_;
}

void Conv2d::weights_of_rows(int part, Range rows, const Binding& at, const TaskContext& ctx) const {
  float* weights = ctx.gradients + at.parameters[0];
  float* bias = ctx.gradients + bias_at(at);
  if (part > 0) {
    weights = partial(part, at, ctx);
    bias = weights + ScratchCursor::padded(storage_.get_size()) / sizeof(float);
  }
  size_for(weights_, rows)
      .run(ctx.lane, input(rows.begin, at, ctx), weights, bias, diff(rows.begin, at, ctx), ctx.scratch);
}

void Conv2d::weights_of_channels(int part, const Binding& at, const TaskContext& ctx) const {
  const void* of_output = diff(0, at, ctx);
  const Range channels = channels_.part(part);
  ScratchCursor cursor(ctx.scratch);
  if (channels_.tasks > 1) {
    const std::int64_t pixels = shape_.out_h * shape_.out_w;
    const std::int64_t elements = channels.size() * pixels;
    auto* own = reinterpret_cast<float*>(
        cursor.take(static_cast<std::size_t>(rows_.count * elements) * sizeof(float)));
    copy_columns(own, elements, floats(ctx.arena, at.diff_output) + channels.begin * pixels,
                 shape_.output_elements(), rows_.count, elements);
    of_output = own;
  }
  const std::int64_t first = shape_.weight_elements() / shape_.out_channels * channels.begin;
  channel_weights_.run(ctx.lane, input(0, at, ctx), ctx.gradients + at.parameters[0] + first,
                       ctx.gradients + bias_at(at) + channels.begin, of_output, cursor.take(0));
}

void Conv2d::export_plain(std::size_t i, std::span<const float> stored, std::span<float> plain) const {
  if (i > 0) return Kernel::export_plain(i, stored, plain);
  require(stored.size_bytes() == storage_.get_size(), "conv2d: stored weights of another size");
  require(plain.size() == static_cast<std::size_t>(shape_.weight_elements()),
          "conv2d: plain weights of another size");
  reorder_once(context_, storage_, stored.data(), shape_.plain_weights(), plain.data());
}

void Conv2d::import_plain(std::size_t i, std::span<const float> plain, std::span<float> stored) const {
  if (i > 0) return Kernel::import_plain(i, plain, stored);
  require(stored.size_bytes() == storage_.get_size(), "conv2d: stored weights of another size");
  require(plain.size() == static_cast<std::size_t>(shape_.weight_elements()),
          "conv2d: plain weights of another size");
  reorder_once(context_, shape_.plain_weights(), plain.data(), storage_, stored.data());
}

}  // namespace

std::unique_ptr<Kernel> make_conv2d(const KernelSpec& spec) {
  attrs_of<Conv2dAttrs>(spec);
  prepare_compute_thread();
  return with_onednn("make a convolution", [&] { return std::make_unique<Conv2d>(spec); });
}

}  // namespace lockstep::cpu
