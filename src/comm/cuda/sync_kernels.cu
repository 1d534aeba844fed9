#include "comm/cuda/sync_kernels.h"
#include "core/numerics/finite.h"
#include "device/cuda/call.h"

// No library has these: the order of additions is Lockstep's own.

namespace lockstep::cuda {
namespace {

constexpr int threads = 256;
/// A thread adds four neighbouring elements, so that every load and store is one of 16 bytes.
constexpr int per_thread = 4;

struct Four {
  float4 v;
};
__device__ inline Four operator+(const Four& a, const Four& b) {
  return {make_float4(a.v.x + b.v.x, a.v.y + b.v.y, a.v.z + b.v.z, a.v.w + b.v.w)};
}

struct LoadFour {
  __device__ Four operator()(const float* at) const { return {*reinterpret_cast<const float4*>(at)}; }
};

template <int Depth>
__global__ void __launch_bounds__(threads) complete(CompletionOperands from, const std::uint8_t* merges,
                                                    std::int32_t parts, std::int64_t count, float* out) {
  const std::int64_t stride = std::int64_t{gridDim.x} * threads * per_thread;
  for (std::int64_t i = (std::int64_t{blockIdx.x} * threads + threadIdx.x) * per_thread; i < count;
       i += stride) {
    const Four sum = complete_element<Depth, Four>(from, merges, parts, i, LoadFour{});
    *reinterpret_cast<float4*>(out + i) = sum.v;
  }
}

__global__ void __launch_bounds__(threads) block_marks(const float* data, double* marks) {
  const float* block = data + std::int64_t{blockIdx.x} * block_elements;
  bool bad = false;
  for (int i = static_cast<int>(threadIdx.x); i < block_elements; i += threads) bad |= !isfinite(block[i]);
  const bool any = __syncthreads_or(bad) != 0;
  if (threadIdx.x == 0) marks[blockIdx.x] = finite_mark(!any);
}

__global__ void mark(std::uint64_t* count, volatile std::uint64_t* shown, volatile std::int64_t* shown_bucket,
                     std::int64_t bucket) {
  if (shown_bucket != nullptr) {
    *shown_bucket = bucket;
    __threadfence_system();
  }
  *shown = ++*count;
  __threadfence_system();
}

/// Enough blocks to fill any device several times over; each then strides.
unsigned blocks_for(std::int64_t count) {
  const std::int64_t needed = (count + threads * per_thread - 1) / (threads * per_thread);
  return static_cast<unsigned>(needed < 4096 ? needed : 4096);
}

}  // namespace

void launch_complete(const CompletionOperands& from, const std::uint8_t* merges, std::int32_t parts,
                     int depth, std::int64_t count, float* out, cudaStream_t stream) {
  if (count == 0) return;
  const unsigned blocks = blocks_for(count);
  if (depth <= completion_depths[0]) {
    complete<completion_depths[0]><<<blocks, threads, 0, stream>>>(from, merges, parts, count, out);
  } else if (depth <= completion_depths[1]) {
    complete<completion_depths[1]><<<blocks, threads, 0, stream>>>(from, merges, parts, count, out);
  } else if (depth <= completion_depths[2]) {
    complete<completion_depths[2]><<<blocks, threads, 0, stream>>>(from, merges, parts, count, out);
  } else {
    complete<completion_depths[3]><<<blocks, threads, 0, stream>>>(from, merges, parts, count, out);
  }
  LOCKSTEP_CUDA_CALL(cudaGetLastError());
}

void launch_block_marks(const float* data, std::int64_t count, double* marks, cudaStream_t stream) {
  if (count == 0) return;
  block_marks<<<static_cast<unsigned>(count / block_elements), threads, 0, stream>>>(data, marks);
  LOCKSTEP_CUDA_CALL(cudaGetLastError());
}

void launch_mark(std::uint64_t* count, std::uint64_t* shown, std::int64_t* shown_bucket, std::int64_t bucket,
                 cudaStream_t stream) {
  mark<<<1, 1, 0, stream>>>(count, shown, shown_bucket, bucket);
  LOCKSTEP_CUDA_CALL(cudaGetLastError());
}

}  // namespace lockstep::cuda
