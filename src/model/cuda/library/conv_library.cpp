// The one file that includes cudnn-frontend: it costs half a minute to compile.

#include <cudnn.h>
#include <cudnn_frontend.h>
#include <fmt/format.h>
#include <unordered_map>

#include "core/error.h"
#include "device/cuda/device.h"
#include "model/cuda/library/conv_graph.h"
#include "model/cuda/library/library_plans.h"

namespace lockstep::cuda {
namespace {

void check(const char* call, cudnnStatus_t status) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw DeviceError(fmt::format("{}: {} (cuDNN {}), {}", call, cudnnGetErrorString(status),
                                ConvLibrary::version(), where()));
}

void destroy_handle(cudnnHandle_t handle) noexcept {
  // Its only errors are those of a process that ends: there is nobody left to tell.
  (void)cudnnDestroy(handle);
}

struct ConvPlan {
  std::shared_ptr<fe::graph::Graph> graph;
  std::int64_t index = 0;  ///< of the graph's plans
  std::string name;
};

std::unordered_map<std::int64_t, void*> pointers_of(ConvPass pass, const ConvShape& shape,
                                                    const ConvTensors& t) {
  std::unordered_map<std::int64_t, void*> pointers = {
      {first_input, const_cast<void*>(t.a)}, {second_input, const_cast<void*>(t.b)}, {result, t.out}};
  if (has_bias(pass)) pointers[bias_input] = const_cast<void*>(t.bias);
  if (has_norm(pass)) {
    pointers[scale_input] = const_cast<float*>(t.scale);
    pointers[shift_input] = const_cast<float*>(t.shift);
  }
  if (has_residual(pass)) pointers[residual_input] = const_cast<void*>(t.residual);
  if (pass == ConvPass::forward_sums) {
    pointers[sum_result] = t.sum;
    pointers[squares_result] = t.squares;
  }
  if (pass == ConvPass::data_norm) {
    pointers[norm_input] = const_cast<void*>(t.norm.x);
    pointers[mean_input] = const_cast<float*>(t.norm.mean);
    pointers[inverse_input] = const_cast<float*>(t.norm.inverse);
    pointers[gamma_input] = const_cast<float*>(t.norm.gamma);
    pointers[beta_input] = const_cast<float*>(t.norm.beta);
    for (int i = 0; i < NormInFront::results; ++i)
      pointers[norm_results + i] = t.norm.sums + i * ChannelRows::stride(shape.in_channels);
  }
  return pointers;
}

}  // namespace

struct ConvLibrary::State {
  CudaOptions options;
  Unique<cudnnHandle_t, destroy_handle> handle;           // none for a described device
  std::shared_ptr<const fe::DeviceProperties> described;  // null for a device that is there
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

  void execute(const fe::graph::Graph& graph, std::int64_t index, ConvPass pass, const ConvShape& shape,
               const ConvTensors& t, void* space, const std::string& name) const {
    auto pointers = pointers_of(pass, shape, t);
    auto status = graph.execute_plan_at_index(handle.get(), pointers, space, index);
    if (status.is_bad())
      throw DeviceError(fmt::format("{}, plan {}: {} (cuDNN {}), {}", describe(pass, shape), name,
                                    status.get_message(), version(), where()));
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

ConvLibrary::ConvLibrary(const CudaOptions& options, const std::string& described_device)
    : state_(std::make_unique<State>()) {
  state_->options = options;
  const auto properties = std::make_shared<fe::DeviceProperties>();
  auto status = properties->deserialize({described_device.begin(), described_device.end()});
  if (status.is_bad())
    throw DeviceError(fmt::format("cuDNN {} does not take the description of a device: {}; {}", version(),
                                  status.get_message(), described_device));
  state_->described = properties;
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
      : state_(state), pass_(pass), shape_(shape), graph_(describe_graph(pass, shape, state.io_type())) {
    if (!is_trusted(pass, state_.options.precision, state_.options.half_sums)) {
      reason_ = "sums that cuDNN may make in float16 are not used";
      return;
    }
    cudnnHandle_t handle = state_.handle.get();
    if (state_.described) graph_->set_device_properties(state_.described);
    const bool listed =
        good(graph_->validate(), reason_) && good(graph_->build_operation_graph(handle), reason_) &&
        good(graph_->create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}), reason_);
    if (!listed) return;
    // Sums are float32: without this, of float16 also plans that add in float16 are offered.
    std::vector<fe::NumericalNote_t> unwanted = {fe::NumericalNote_t::REDUCED_PRECISION_REDUCTION};
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
  void run(const PassTensors& t) const override {
    state_.execute(*graph_, at_, pass_, shape_, tensors_of(t), t.workspace, name_);
  }

  std::int64_t workspace() const { return workspace_; }
  /// A plan to keep.
  ConvPlan plan() const { return {graph_, at_, name_}; }
  /// Why the last plan, or all, could not be had.
  const std::string& reason() const { return reason_; }

 private:
  /// The rows in the order of channel_rows().
  ConvTensors tensors_of(const PassTensors& t) const {
    ConvTensors tensors{.a = t.a, .b = t.b, .out = t.out, .bias = t.bias, .residual = t.third};
    const auto row = [&](int i, std::int64_t channels) {
      return t.rows == nullptr ? nullptr : t.rows + i * ChannelRows::stride(channels);
    };
    if (pass_ == ConvPass::data_norm) {
      const std::int64_t c = shape_.in_channels;
      tensors.norm = {t.third, row(0, c), row(1, c), row(2, c), row(3, c), row(4, c)};
    } else {
      tensors.scale = tensors.sum = row(0, shape_.out_channels);
      tensors.shift = tensors.squares = row(1, shape_.out_channels);
    }
    return tensors;
  }

  const State& state_;
  ConvPass pass_;
  ConvShape shape_;
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

void ConvLibrary::run(ConvPass pass, const ConvShape& shape, const ConvTensors& tensors,
                      void* workspace) const {
  const auto found = state_->plans.find(describe(pass, shape));
  require(found != state_->plans.end(), "a convolution runs without a plan");
  const ConvPlan& plan = found->second;
  state_->execute(*plan.graph, plan.index, pass, shape, tensors, workspace, plan.name);
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
