// The one file that includes cudnn-frontend: it costs a minute to compile.

#include <cudnn.h>
#include <cudnn_frontend.h>
#include <fmt/format.h>
#include <unordered_map>

#include "core/error.h"
#include "device/cuda/device.h"
#include "model/cuda/library_plans.h"

namespace lockstep::cuda {
namespace {

namespace fe = cudnn_frontend;

void check(const char* call, cudnnStatus_t status) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw DeviceError(fmt::format("{}: {} (cuDNN {}), {}", call, cudnnGetErrorString(status),
                                ConvLibrary::version(), where()));
}

void destroy_handle(cudnnHandle_t handle) noexcept {
  // Its only errors are those of a process that ends: there is nobody left to tell.
  (void)cudnnDestroy(handle);
}

enum Tensor : std::int64_t { first_input = 1, second_input = 2, bias_input = 3, result = 4 };

struct ConvPlan {
  std::shared_ptr<fe::graph::Graph> graph;
  std::int64_t index = 0;  ///< of the graph's plans
  std::string name;
};

std::vector<std::int64_t> channels_last(std::int64_t c, std::int64_t h, std::int64_t w) {
  return {c * h * w, 1, w * c, c};
}

std::shared_ptr<fe::graph::Tensor_attributes> tensor(fe::graph::Graph& graph, Tensor uid, const char* name,
                                                     std::int64_t n, std::int64_t c, std::int64_t h,
                                                     std::int64_t w) {
  return graph.tensor(fe::graph::Tensor_attributes()
                          .set_name(name)
                          .set_uid(uid)
                          .set_dim({n, c, h, w})
                          .set_stride(channels_last(c, h, w)));
}

void make_result(const std::shared_ptr<fe::graph::Tensor_attributes>& t, std::int64_t n, std::int64_t c,
                 std::int64_t h, std::int64_t w, fe::DataType_t type) {
  t->set_uid(result)
      .set_output(true)
      .set_dim({n, c, h, w})
      .set_stride(channels_last(c, h, w))
      .set_data_type(type);
}

bool has_bias(ConvPass pass) {
  return pass == ConvPass::forward_bias || pass == ConvPass::forward_bias_relu;
}
bool has_relu(ConvPass pass) {
  return pass == ConvPass::forward_relu || pass == ConvPass::forward_bias_relu;
}

}  // namespace

struct ConvLibrary::State {
  CudaOptions options;
  Unique<cudnnHandle_t, destroy_handle> handle;
  std::unordered_map<std::string, ConvPlan> plans;
  std::int64_t workspace = 0;

  fe::DataType_t io_type() const {
    switch (options.precision) {
      case Precision::bf16:
        return fe::DataType_t::BFLOAT16;
      case Precision::fp16:
        return fe::DataType_t::HALF;
      default:
        return fe::DataType_t::FLOAT;
    }
  }

  void execute(const fe::graph::Graph& graph, std::int64_t index, ConvPass pass, const PassTensors& t,
               const std::string& what, const std::string& name) const {
    std::unordered_map<std::int64_t, void*> pointers = {
        {first_input, const_cast<void*>(t.a)}, {second_input, const_cast<void*>(t.b)}, {result, t.out}};
    if (has_bias(pass)) pointers[bias_input] = const_cast<void*>(t.bias);
    auto status = graph.execute_plan_at_index(handle.get(), pointers, t.workspace, index);
    if (status.is_bad())
      throw DeviceError(fmt::format("{}, plan {}: {} (cuDNN {}), {}", what, name, status.get_message(),
                                    version(), where()));
  }

  std::shared_ptr<fe::graph::Graph> describe_graph(ConvPass pass, const ConvShape& s) const {
    auto graph = std::make_shared<fe::graph::Graph>();
    graph->set_io_data_type(io_type())
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    const std::int64_t in_group = s.in_channels / s.groups;
    const auto with_window = [&](auto attributes) {
      attributes.set_padding({s.pad_h, s.pad_w}).set_stride({s.stride_h, s.stride_w}).set_dilation({1, 1});
      return attributes;
    };
    if (pass == ConvPass::data) {
      const auto dy = tensor(*graph, first_input, "dy", s.rows, s.out_channels, s.out_h, s.out_w);
      const auto w = tensor(*graph, second_input, "w", s.out_channels, in_group, s.kernel_h, s.kernel_w);
      const auto dx = graph->conv_dgrad(dy, w, with_window(fe::graph::Conv_dgrad_attributes()));
      make_result(dx, s.rows, s.in_channels, s.in_h, s.in_w, io_type());
      return graph;
    }
    const auto x = tensor(*graph, first_input, "x", s.rows, s.in_channels, s.in_h, s.in_w);
    if (pass == ConvPass::weights || pass == ConvPass::weights_16_bits) {
      const auto dy = tensor(*graph, second_input, "dy", s.rows, s.out_channels, s.out_h, s.out_w);
      const auto dw = graph->conv_wgrad(dy, x, with_window(fe::graph::Conv_wgrad_attributes()));
      make_result(dw, s.out_channels, in_group, s.kernel_h, s.kernel_w,
                  pass == ConvPass::weights ? fe::DataType_t::FLOAT : io_type());
      return graph;
    }
    const auto w = tensor(*graph, second_input, "w", s.out_channels, in_group, s.kernel_h, s.kernel_w);
    auto y = graph->conv_fprop(x, w, with_window(fe::graph::Conv_fprop_attributes()));
    const auto then = [&](auto make) {
      y->set_data_type(fe::DataType_t::FLOAT);
      y = make();
    };
    if (has_bias(pass)) {
      const auto bias = tensor(*graph, bias_input, "bias", 1, s.out_channels, 1, 1);
      then([&] {
        return graph->pointwise(y, bias,
                                fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::ADD));
      });
    }
    if (has_relu(pass))
      then([&] {
        return graph->pointwise(y, fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::RELU_FWD));
      });
    make_result(y, s.rows, s.out_channels, s.out_h, s.out_w, io_type());
    return graph;
  }
};

ConvLibrary::ConvLibrary(const CudaOptions& options, const Stream& compute)
    : state_(std::make_unique<State>()) {
  state_->options = options;
  cudnnHandle_t handle = nullptr;
  check("cudnnCreate", cudnnCreate(&handle));
  state_->handle = Unique<cudnnHandle_t, destroy_handle>(handle);
  check("cudnnSetStream", cudnnSetStream(handle, compute.handle()));
}

ConvLibrary::~ConvLibrary() = default;

namespace {

bool good(auto status, std::string& reason) {
  if (status.is_bad()) reason = status.get_message();
  return status.is_good();
}

}  // namespace

/// Plans of one pass and shape within the limits, in the heuristics' order, which is by expected time.
class ConvLibrary::Candidates final : public PlanCandidates {
 public:
  Candidates(const State& state, ConvPass pass, const ConvShape& shape)
      : state_(state), pass_(pass), what_(describe(pass, shape)), graph_(state.describe_graph(pass, shape)) {
    cudnnHandle_t handle = state_.handle.get();
    const bool listed =
        good(graph_->validate(), reason_) && good(graph_->build_operation_graph(handle), reason_) &&
        good(graph_->create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}), reason_);
    if (!listed) return;
    std::vector<fe::NumericalNote_t> unwanted;
    if (state_.options.deterministic) unwanted.push_back(fe::NumericalNote_t::NONDETERMINISTIC);
    if (state_.options.precision == Precision::fp32) {
      // On float32, tensor cores mean factors rounded to TF32.
      unwanted.push_back(fe::NumericalNote_t::TENSOR_CORE);
      unwanted.push_back(fe::NumericalNote_t::DOWN_CONVERT_INPUTS);
    }
    graph_->deselect_numeric_notes(unwanted);
    graph_->deselect_workspace_greater_than(static_cast<std::int64_t>(state_.options.workspace_bytes));
    count_ = graph_->get_execution_plan_count();
  }

  bool next() override { return next({}); }
  /// The same, of the plans of that name.
  bool next(const std::string& wanted) {
    while (++at_ < count_) {
      if (!good(graph_->get_plan_name_at_index(at_, name_), reason_)) continue;
      if (!wanted.empty() && name_ != wanted) continue;
      if (good(graph_->build_plan_at_index(at_), reason_) &&
          good(graph_->get_workspace_size_plan_at_index(at_, workspace_), reason_) &&
          workspace_ <= static_cast<std::int64_t>(state_.options.workspace_bytes))
        return true;
    }
    return false;
  }
  std::string name() const override { return name_; }
  std::size_t workspace_bytes() const override { return static_cast<std::size_t>(workspace_); }
  void run(const PassTensors& t) const override { state_.execute(*graph_, at_, pass_, t, what_, name_); }

  std::int64_t workspace() const { return workspace_; }
  /// A plan to keep.
  ConvPlan plan() const { return {graph_, at_, name_}; }
  /// Why the last plan, or all, could not be had.
  const std::string& reason() const { return reason_; }

 private:
  const State& state_;
  ConvPass pass_;
  std::string what_;
  std::shared_ptr<fe::graph::Graph> graph_;
  std::int64_t count_ = 0, at_ = -1, workspace_ = 0;
  std::string name_, reason_;
};

bool ConvLibrary::prepare(ConvPass pass, const ConvShape& shape, const std::string& wanted) {
  std::string reason;
  if (make(pass, shape, wanted, reason)) return true;
  if (!wanted.empty())
    throw DeviceError(fmt::format(
        "{}: cuDNN {} has not the plan {} that was chosen for it elsewhere ({}), {}", describe(pass, shape),
        version(), wanted, reason.empty() ? "not offered" : reason, where()));
  return false;
}

bool ConvLibrary::offers(ConvPass pass, const ConvShape& shape, const std::string& plan) {
  std::string reason;
  return make(pass, shape, plan, reason);
}

bool ConvLibrary::make(ConvPass pass, const ConvShape& shape, const std::string& wanted,
                       std::string& reason) {
  const std::string what = describe(pass, shape);
  if (state_->plans.count(what) != 0) return true;
  Candidates candidates(*state_, pass, shape);
  if (!candidates.next(wanted)) {
    reason = candidates.reason();
    return false;
  }
  state_->workspace = std::max(state_->workspace, candidates.workspace());
  state_->plans[what] = candidates.plan();
  return true;
}

std::unique_ptr<PlanCandidates> ConvLibrary::candidates(ConvPass pass, const ConvShape& shape) const {
  return std::make_unique<Candidates>(*state_, pass, shape);
}

void ConvLibrary::run(ConvPass pass, const ConvShape& shape, const void* a, const void* b, const void* bias,
                      void* out, void* workspace) const {
  const std::string what = describe(pass, shape);
  const auto found = state_->plans.find(what);
  require(found != state_->plans.end(), "a convolution runs without a plan");
  const ConvPlan& plan = found->second;
  state_->execute(*plan.graph, plan.index, pass, {a, b, bias, out, workspace}, what, plan.name);
}

std::string ConvLibrary::name(ConvPass pass, const ConvShape& shape) const {
  return state_->plans.at(describe(pass, shape)).name;
}

std::size_t ConvLibrary::workspace_bytes() const {
  return static_cast<std::size_t>(state_->workspace);
}

std::string ConvLibrary::version() {
  const std::size_t v = cudnnGetVersion();
  return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
}

}  // namespace lockstep::cuda
