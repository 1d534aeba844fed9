#pragma once

#include <cstddef>
#include <dnnl.hpp>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/numerics/precision.h"

namespace lockstep::cpu {

/// Runs `body`; a failure of oneDNN becomes a DeviceError that says what could not be done.
template <class Body>
auto with_onednn(const std::string& what, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const dnnl::error& e) {
    throw DeviceError("oneDNN could not " + what + ": " + e.what() + " (status " +
                      std::to_string(static_cast<int>(e.status)) + ")");
  }
}

/// The library's word for a format.
constexpr dnnl::memory::data_type onednn_type(NumberFormat format) {
  return format == NumberFormat::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

/// Why this processor cannot compute in bf16 with the library's fast kernels, as a clause; empty where it
/// can.
std::string bf16_problem();

/// The engine of one kernel and a stream for each lane. Primitives are made by a thread that has called
/// prepare_compute_thread(): the count of OpenMP threads at that time decides their bits.
class OnednnContext {
 public:
  explicit OnednnContext(int lanes);
  const dnnl::engine& engine() const { return engine_; }
  const std::vector<dnnl::stream>& streams() const { return streams_; }

 private:
  dnnl::engine engine_;
  std::vector<dnnl::stream> streams_;
};

/// What every primitive is made with: scratch memory comes from the lane. A primitive that two threads share
/// gives wrong results with the library's own scratch memory.
dnnl::primitive_attr user_scratchpad();
/// The same, with max(x, 0) applied to the result.
dnnl::primitive_attr user_scratchpad_with_relu();

/// A primitive that lanes run side by side. A oneDNN memory object holds one address, so each lane has its
/// own set of them, made here; run() only sets the addresses. From the second time on nothing is allocated
/// but what the library makes for each call: a few objects of some hundred bytes (its "gemm" implementations
/// take buffers too).
class OnednnCall {
 public:
  struct Argument {
    int index = 0;            ///< DNNL_ARG_…
    dnnl::memory::desc desc;  ///< of no bytes: the argument is left out, but keeps its place in run()
  };
  OnednnCall() = default;
  OnednnCall(const OnednnContext& context, const dnnl::primitive& primitive,
             const std::vector<Argument>& arguments);

  /// One address per argument, in the order of construction. Throws DeviceError.
  void run(int lane, std::initializer_list<const void*> addresses) const;
  explicit operator bool() const { return !lanes_.empty(); }

 private:
  struct Lane {
    dnnl::stream stream;
    std::vector<dnnl::memory> memories;
    std::vector<dnnl_exec_arg_t> arguments;
  };
  dnnl::primitive primitive_;
  std::vector<int> place_;  ///< of each argument in Lane::memories; -1: left out
  std::vector<Lane> lanes_;
};

/// A conversion between two layouts of one tensor.
class OnednnReorder {
 public:
  OnednnReorder() = default;
  OnednnReorder(const OnednnContext& context, const dnnl::memory::desc& from, const dnnl::memory::desc& to);
  /// `scratch`: scratch_bytes() bytes.
  void run(int lane, const void* from, void* to, void* scratch) const {
    call_.run(lane, {from, to, scratch});
  }
  std::size_t scratch_bytes() const { return scratch_bytes_; }
  explicit operator bool() const { return static_cast<bool>(call_); }

 private:
  OnednnCall call_;
  std::size_t scratch_bytes_ = 0;
};

/// Converts at once, on the calling thread; allocates.
void reorder_once(const OnednnContext& context, const dnnl::memory::desc& from, const void* source,
                  const dnnl::memory::desc& to, void* target);

/// Elements are padded up to the blocks of the layout.
bool has_padding(const dnnl::memory::desc& desc);

/// How good an implementation is, by its name: 2 vectorized for this op, 1 general matrix product ("gemm"),
/// 0 the library's plain loops ("ref"), which are a thousand times slower.
int implementation_grade(const std::string& name);

/// Hands out consecutive aligned pieces of a lane's scratch memory.
class ScratchCursor {
 public:
  explicit ScratchCursor(std::byte* base) : next_(base) {}
  std::byte* take(std::size_t bytes);
  static std::size_t padded(std::size_t bytes);  ///< what take() moves on by

 private:
  std::byte* next_;
};

}  // namespace lockstep::cpu
