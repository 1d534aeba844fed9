#include <algorithm>
#include <cstring>
#include <cublasLt.h>
#include <fmt/format.h>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/error.h"
#include "device/cuda/device.h"
#include "model/cuda/library/library_plans.h"

namespace lockstep::cuda {
namespace {

void check(const char* call, cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(fmt::format("{}: {} (cuBLASLt {}), {}", call, cublasLtGetStatusString(status),
                                DenseLibrary::version(), where()));
}
#define LOCKSTEP_LT_CALL(call) check(#call, (call))

void destroy(cublasLtHandle_t handle) noexcept {
  (void)cublasLtDestroy(handle);
}
void destroy(cublasLtMatmulDesc_t handle) noexcept {
  (void)cublasLtMatmulDescDestroy(handle);
}
void destroy(cublasLtMatrixLayout_t handle) noexcept {
  (void)cublasLtMatrixLayoutDestroy(handle);
}
void destroy(cublasLtMatmulPreference_t handle) noexcept {
  (void)cublasLtMatmulPreferenceDestroy(handle);
}

/// Parts of a sum that is split over blocks are added in float32: without this, of 16-bit results also in 16
/// bits.
constexpr int float_sums = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

bool sums_in_float(const cublasLtMatmulAlgo_t& algorithm) {
  std::uint32_t scheme = 0;
  return cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme,
                                              sizeof scheme, nullptr) == CUBLAS_STATUS_SUCCESS &&
         (scheme & ~static_cast<std::uint32_t>(float_sums)) == 0;
}

using Layout = Unique<cublasLtMatrixLayout_t, destroy>;

/// cuBLASLt sees columns first: a row-major (rows, in) is its (in x rows).
Layout layout(cudaDataType_t type, std::int64_t rows, std::int64_t columns) {
  cublasLtMatrixLayout_t handle = nullptr;
  LOCKSTEP_LT_CALL(cublasLtMatrixLayoutCreate(&handle, type, static_cast<std::uint64_t>(rows),
                                              static_cast<std::uint64_t>(columns), rows));
  return Layout(handle);
}

/// Bytes. Tensors of the plan begin at multiples of 64 bytes, in 16 bits of 32.
constexpr std::uintptr_t tensor_alignment = 16;

template <class Value>
void set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const Value& value) {
  LOCKSTEP_LT_CALL(cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof value));
}

struct Product {
  Unique<cublasLtMatmulDesc_t, destroy> desc;
  Layout a, b, d;
  cublasLtMatmulAlgo_t algorithm{};
  std::string name;
  bool swapped = false;  ///< the library's first factor is our second operand
};

cublasLtEpilogue_t epilogue_of(DensePass pass) {
  switch (pass) {
    case DensePass::forward_relu:
      return CUBLASLT_EPILOGUE_RELU;
    case DensePass::forward_bias:
      return CUBLASLT_EPILOGUE_BIAS;
    case DensePass::forward_bias_relu:
      return CUBLASLT_EPILOGUE_RELU_BIAS;
    case DensePass::forward_gelu:
      return CUBLASLT_EPILOGUE_GELU;
    case DensePass::forward_bias_gelu:
      return CUBLASLT_EPILOGUE_GELU_BIAS;
    case DensePass::forward_gelu_aux:
      return CUBLASLT_EPILOGUE_GELU_AUX;
    case DensePass::forward_bias_gelu_aux:
      return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    case DensePass::data_gelu:
      return CUBLASLT_EPILOGUE_DGELU;
    case DensePass::weights_bias:
      return CUBLASLT_EPILOGUE_BGRADB;
    case DensePass::forward:
    case DensePass::data:
    case DensePass::weights:
      break;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

/// The heuristics read from addresses, which they do not follow, how they are aligned: a null pointer would
/// promise more than is kept. execute() sets the real ones.
const void* some_address() {
  return reinterpret_cast<const void*>(tensor_alignment);
}

// An algorithm is 64 bytes that NVIDIA allows to be stored for the same version of the library.
std::string to_hex(const cublasLtMatmulAlgo_t& algorithm) {
  std::string text;
  for (const std::uint64_t word : algorithm.data) text += fmt::format("{:016x}", word);
  return text;
}
bool from_hex(const std::string& text, cublasLtMatmulAlgo_t& algorithm) {
  constexpr std::size_t words = sizeof algorithm.data / sizeof algorithm.data[0];
  if (text.size() != words * 16 || text.find_first_not_of("0123456789abcdef") != std::string::npos)
    return false;
  for (std::size_t i = 0; i < words; ++i)
    algorithm.data[i] = std::stoull(text.substr(i * 16, 16), nullptr, 16);
  return true;
}

}  // namespace

struct DenseLibrary::State {
  CudaOptions options;
  cudaStream_t stream = nullptr;
  Unique<cublasLtHandle_t, destroy> handle;
  std::unordered_map<std::string, Product> products;
  std::size_t workspace = 0;

  cudaDataType_t io_type() const {
    switch (options.precision) {
      case Precision::bf16:
        return CUDA_R_16BF;
      case Precision::fp16:
        return CUDA_R_16F;
      default:
        return CUDA_R_32F;
    }
  }

  void keep(const std::string& what, Product product, std::size_t bytes) {
    workspace = std::max(workspace, bytes);
    products.emplace(what, std::move(product));
  }

  /// `bytes`: of the workspace.
  void execute(const Product& p, DensePass pass, const PassTensors& t, std::size_t bytes) const {
    if (has_bias(pass) || pass == DensePass::weights_bias)
      set(p.desc.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, t.bias);
    if (has_aux(pass)) set(p.desc.get(), CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, t.aux);
    const float one = 1.0f, zero = 0.0f;
    LOCKSTEP_LT_CALL(cublasLtMatmul(handle.get(), p.desc.get(), &one, p.swapped ? t.b : t.a, p.a.get(),
                                    p.swapped ? t.a : t.b, p.b.get(), &zero, t.out, p.d.get(), t.out,
                                    p.d.get(), &p.algorithm, t.workspace, bytes, stream));
  }

  Product describe_product(DensePass pass, const DenseShape& s) const {
    Product p;
    cublasLtMatmulDesc_t desc = nullptr;
    const auto compute =
        options.precision == Precision::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    LOCKSTEP_LT_CALL(cublasLtMatmulDescCreate(&desc, compute, CUDA_R_32F));
    p.desc = Unique<cublasLtMatmulDesc_t, destroy>(desc);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cudaDataType_t io = io_type();
    // dx' (in x rows) = w (in x out) dy' (out x rows)
    if (pass == DensePass::data || pass == DensePass::data_gelu) {
      p.a = layout(io, s.in, s.out);
      p.b = layout(io, s.out, s.rows);
      p.d = layout(io, s.in, s.rows);
      p.swapped = true;
    } else if (pass == DensePass::weights || pass == DensePass::weights_bias) {
      // dw' (in x out) = x' (in x rows) dy (rows x out)
      p.a = layout(io, s.in, s.rows);
      p.b = layout(io, s.out, s.rows);
      p.d = layout(CUDA_R_32F, s.in, s.out);
      set(desc, CUBLASLT_MATMUL_DESC_TRANSB, transposed);
    } else {  // y' (out x rows) = w' (out x in) x' (in x rows)
      p.a = layout(io, s.in, s.out);
      p.b = layout(io, s.in, s.rows);
      p.d = layout(io, s.out, s.rows);
      set(desc, CUBLASLT_MATMUL_DESC_TRANSA, transposed);
      p.swapped = true;
    }
    set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(pass));
    if (has_bias(pass)) {
      set(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<std::int32_t>(io));
      set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, some_address());
    }
    if (pass == DensePass::weights_bias) {  // sums of the second factor's columns, in the format of dw
      set(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<std::int32_t>(CUDA_R_32F));
      set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, some_address());
    }
    if (has_aux(pass)) {  // GELU's input, in the format of the result and with rows as long
      set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, pass == DensePass::data_gelu ? s.in : s.out);
      set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, some_address());
    }
    return p;
  }
};

DenseLibrary::DenseLibrary(const CudaOptions& options, const Stream& compute)
    : state_(std::make_unique<State>()) {
  state_->options = options;
  state_->stream = compute.handle();
  cublasLtHandle_t handle = nullptr;
  LOCKSTEP_LT_CALL(cublasLtCreate(&handle));
  state_->handle = Unique<cublasLtHandle_t, destroy>(handle);
}

DenseLibrary::~DenseLibrary() = default;

/// The algorithms that the library's heuristics propose within the limits, in their order.
class DenseLibrary::Candidates final : public PlanCandidates {
 public:
  /// `most`: algorithms to ask for.
  Candidates(const State& state, DensePass pass, const DenseShape& shape, int most)
      : state_(state), pass_(pass), product_(state.describe_product(pass, shape)) {
    cublasLtMatmulPreference_t raw = nullptr;
    LOCKSTEP_LT_CALL(cublasLtMatmulPreferenceCreate(&raw));
    const Unique<cublasLtMatmulPreference_t, destroy> preference(raw);
    const std::size_t limit = state_.options.workspace_bytes;
    LOCKSTEP_LT_CALL(cublasLtMatmulPreferenceSetAttribute(raw, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                          &limit, sizeof limit));
    const auto schemes = static_cast<std::uint32_t>(float_sums);
    LOCKSTEP_LT_CALL(cublasLtMatmulPreferenceSetAttribute(raw, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                          &schemes, sizeof schemes));
    const auto alignment = static_cast<std::uint32_t>(tensor_alignment);
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      LOCKSTEP_LT_CALL(cublasLtMatmulPreferenceSetAttribute(raw, attribute, &alignment, sizeof alignment));
    found_.resize(static_cast<std::size_t>(most));
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        state_.handle.get(), product_.desc.get(), product_.a.get(), product_.b.get(), product_.d.get(),
        product_.d.get(), raw, most, found_.data(), &count);
    found_.resize(status == CUBLAS_STATUS_SUCCESS ? static_cast<std::size_t>(std::clamp(count, 0, most)) : 0);
  }

  bool next() override {
    while (++at_ <= found_.size()) {
      const cublasLtMatmulHeuristicResult_t& found = found_[at_ - 1];
      if (found.state != CUBLAS_STATUS_SUCCESS || found.workspaceSize > state_.options.workspace_bytes)
        continue;
      product_.algorithm = found.algo;
      return true;
    }
    return false;
  }
  std::string name() const override { return to_hex(product_.algorithm); }
  std::size_t workspace_bytes() const override { return found_[at_ - 1].workspaceSize; }
  void run(const PassTensors& t) const override {
    state_.execute(product_, pass_, t, found_[at_ - 1].workspaceSize);
  }
  /// To keep; ends the candidates.
  Product take() {
    product_.name = name();
    return std::move(product_);
  }

 private:
  const State& state_;
  DensePass pass_;
  Product product_;
  std::vector<cublasLtMatmulHeuristicResult_t> found_;
  std::size_t at_ = 0;  ///< of the current one, from 1
};

namespace {
/// As many as the heuristics are asked for where a plan is looked for among them.
constexpr int most_candidates = 32;
}  // namespace

bool DenseLibrary::prepare(DensePass pass, const DenseShape& shape, const std::string& wanted) {
  const std::string what = describe(pass, shape);
  if (state_->products.count(what) != 0) return true;
  if (wanted.empty()) {
    Candidates candidates(*state_, pass, shape, 1);
    if (!candidates.next()) return false;
    state_->keep(what, candidates.take(), candidates.workspace_bytes());
    return true;
  }
  if (offers(pass, shape, wanted)) return true;
  Product p = state_->describe_product(pass, shape);
  cublasLtMatmulHeuristicResult_t found{};
  if (!from_hex(wanted, p.algorithm) || !sums_in_float(p.algorithm) ||
      cublasLtMatmulAlgoCheck(state_->handle.get(), p.desc.get(), p.a.get(), p.b.get(), p.d.get(), p.d.get(),
                              &p.algorithm, &found) != CUBLAS_STATUS_SUCCESS ||
      found.workspaceSize > state_->options.workspace_bytes)
    throw DeviceError(
        fmt::format("{}: cuBLASLt {} has not the algorithm {} that was chosen for it elsewhere, {}", what,
                    version(), wanted, where()));
  p.name = to_hex(p.algorithm);
  state_->keep(what, std::move(p), found.workspaceSize);
  return true;
}

bool DenseLibrary::offers(DensePass pass, const DenseShape& shape, const std::string& plan) {
  const std::string what = describe(pass, shape);
  if (state_->products.count(what) != 0) return true;
  // A name from a file must not reach the library as an algorithm: it is looked for among those proposed.
  Candidates candidates(*state_, pass, shape, most_candidates);
  while (candidates.next()) {
    if (candidates.name() != plan) continue;
    state_->keep(what, candidates.take(), candidates.workspace_bytes());
    return true;
  }
  return false;
}

std::unique_ptr<PlanCandidates> DenseLibrary::candidates(DensePass pass, const DenseShape& shape) const {
  return std::make_unique<Candidates>(*state_, pass, shape, most_candidates);
}

void DenseLibrary::run(DensePass pass, const DenseShape& shape, const PassTensors& tensors) const {
  const auto found = state_->products.find(describe(pass, shape));
  require(found != state_->products.end(), "a dense layer runs without a plan");
  state_->execute(found->second, pass, tensors, state_->workspace);
}

std::string DenseLibrary::name(DensePass pass, const DenseShape& shape) const {
  return state_->products.at(describe(pass, shape)).name;
}

std::size_t DenseLibrary::workspace_bytes() const {
  return state_->workspace;
}

std::string DenseLibrary::version() {
  const std::size_t v = cublasLtGetVersion();
  return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
}

}  // namespace lockstep::cuda
