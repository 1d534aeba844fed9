// cuBLASLt and NVRTC, loaded at the first call of one of their functions. As a library that the program is
// linked with, cuBLASLt alone makes every start 70 ms longer and 100 MiB larger, also where there is no GPU:
// all its addresses are written anew. The linker finds the functions here before it looks into the libraries
// (LockstepCuda.cmake).

#include <cublasLt.h>
#include <cublas_api.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <nvrtc.h>
#include <string>

#include "core/error.h"

namespace lockstep::cuda {
namespace {

/// A shared library that stays loaded to the end of the process. The loader looks for it where it would look
/// for one that the program was linked with.
class LateLibrary {
 public:
  explicit LateLibrary(const std::string& name)
      : name_(name), handle_(dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL)) {
    if (handle_ == nullptr) fail();
  }
  template <class Function>
  Function* find(const char* function) const {
    void* found = dlsym(handle_, function);
    if (found == nullptr) fail();
    return reinterpret_cast<Function*>(found);
  }

 private:
  [[noreturn]] void fail() const {
    const char* why = dlerror();
    throw DeviceError(
        fmt::format("{} cannot be used: {}; install the CUDA libraries of the version that Lockstep was "
                    "built with, or name their "
                    "folder in LD_LIBRARY_PATH, or train with --device.kind cpu",
                    name_, why == nullptr ? "no reason is given" : why));
  }
  std::string name_;
  void* handle_;
};

const LateLibrary& cublas_lt() {
  static const LateLibrary library(fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR));
  return library;
}
const LateLibrary& nvrtc() {
  static const LateLibrary library(fmt::format("libnvrtc.so.{}", CUDART_VERSION / 1000));
  return library;
}

}  // namespace
}  // namespace lockstep::cuda

// Hidden: libraries of NVIDIA that call these functions go on finding each other's.
#define LOCKSTEP_ON_FIRST_USE(library, result, name, parameters, ...)                     \
  __attribute__((visibility("hidden"))) result name parameters {                          \
    static const auto function = lockstep::cuda::library().find<decltype(::name)>(#name); \
    return function(__VA_ARGS__);                                                         \
  }

extern "C" {

LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtCreate, (cublasLtHandle_t * handle), handle)
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtDestroy, (cublasLtHandle_t handle), handle)
LOCKSTEP_ON_FIRST_USE(cublas_lt, const char*, cublasLtGetStatusString, (cublasStatus_t status), status)
LOCKSTEP_ON_FIRST_USE(cublas_lt, std::size_t, cublasLtGetVersion, (), )
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtMatmul,
                      (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                       cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                       const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                       cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo, void* workspace,
                       std::size_t bytes, cudaStream_t stream),
                      handle, desc, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algo,
                      workspace, bytes, stream)
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtMatmulAlgoCheck,
                      (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                       const cublasLtMatmulAlgo_t* algo, cublasLtMatmulHeuristicResult_t* result),
                      handle, desc, a, b, c, d, algo, result)
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtMatmulAlgoConfigGetAttribute,
                      (const cublasLtMatmulAlgo_t* algo, cublasLtMatmulAlgoConfigAttributes_t attribute,
                       void* value, std::size_t bytes, std::size_t* written),
                      algo, attribute, value, bytes, written)
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtMatmulAlgoGetHeuristic,
                      (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                       cublasLtMatmulPreference_t preference, int wanted,
                       cublasLtMatmulHeuristicResult_t results[], int* found),
                      handle, desc, a, b, c, d, preference, wanted, results, found)
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t desc), desc)
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtMatmulDescCreate,
                      (cublasLtMatmulDesc_t * desc, cublasComputeType_t compute, cudaDataType_t scale), desc,
                      compute, scale)
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtMatmulDescSetAttribute,
                      (cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const void* value,
                       std::size_t bytes),
                      desc, attribute, value, bytes)
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtMatmulPreferenceCreate,
                      (cublasLtMatmulPreference_t * preference), preference)
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtMatmulPreferenceDestroy,
                      (cublasLtMatmulPreference_t preference), preference)
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtMatmulPreferenceSetAttribute,
                      (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
                       const void* value, std::size_t bytes),
                      preference, attribute, value, bytes)
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtMatrixLayoutCreate,
                      (cublasLtMatrixLayout_t * layout, cudaDataType type, std::uint64_t rows,
                       std::uint64_t columns, std::int64_t stride),
                      layout, type, rows, columns, stride)
LOCKSTEP_ON_FIRST_USE(cublas_lt, cublasStatus_t, cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t layout),
                      layout)

// Called by cudnn-frontend, which compiles what it finds in no library.
LOCKSTEP_ON_FIRST_USE(nvrtc, nvrtcResult, nvrtcCreateProgram,
                      (nvrtcProgram * program, const char* source, const char* name, int headers,
                       const char* const* texts, const char* const* names),
                      program, source, name, headers, texts, names)
LOCKSTEP_ON_FIRST_USE(nvrtc, nvrtcResult, nvrtcCompileProgram,
                      (nvrtcProgram program, int count, const char* const* options), program, count, options)
LOCKSTEP_ON_FIRST_USE(nvrtc, nvrtcResult, nvrtcDestroyProgram, (nvrtcProgram * program), program)
LOCKSTEP_ON_FIRST_USE(nvrtc, nvrtcResult, nvrtcGetCUBIN, (nvrtcProgram program, char* cubin), program, cubin)
LOCKSTEP_ON_FIRST_USE(nvrtc, nvrtcResult, nvrtcGetCUBINSize, (nvrtcProgram program, std::size_t* bytes),
                      program, bytes)
LOCKSTEP_ON_FIRST_USE(nvrtc, nvrtcResult, nvrtcGetProgramLog, (nvrtcProgram program, char* log), program, log)
LOCKSTEP_ON_FIRST_USE(nvrtc, nvrtcResult, nvrtcGetProgramLogSize, (nvrtcProgram program, std::size_t* bytes),
                      program, bytes)

}  // extern "C"
