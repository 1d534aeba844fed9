#pragma once

#include <cstddef>
#include <cstdint>
#include <dnnl.hpp>
#include <vector>

#include "model/cpu/onednn/onednn.h"

namespace lockstep::cpu {

/// Weights in the layouts and formats that a kernel's primitives want, converted once a step from their
/// stored form into the rank's prepared memory.
class PreparedWeights {
 public:
  static constexpr std::size_t stored =
      static_cast<std::size_t>(-1);  ///< no conversion: read them where they lie

  /// Asks for the part of `storage` at `from` (of the extents of `wanted`) in the layout and format of
  /// `wanted`. `storage` is float32; it may be a transposed view. Returns its offset in the kernel's prepared
  /// memory, or `stored` where that is how the whole lies already. Equal requests share one copy. Large ones
  /// are converted by several tasks, along the first dimension.
  std::size_t add(const OnednnContext& context, const dnnl::memory::desc& storage,
                  const dnnl::memory::dims& from, const dnnl::memory::desc& wanted);

  int tasks() const { return static_cast<int>(pieces_.size()); }
  std::size_t bytes() const { return bytes_; }
  std::size_t scratch_bytes() const { return scratch_bytes_; }
  void run(int lane, int task, const float* weights, std::byte* prepared, std::byte* scratch) const {
    const Piece& piece = pieces_[static_cast<std::size_t>(task)];
    piece.reorder.run(lane, weights + piece.first, prepared + piece.offset, scratch);
  }

 private:
  struct Copy {
    dnnl::memory::desc storage;
    dnnl::memory::dims from;
    dnnl::memory::desc wanted;
    std::size_t offset;
  };
  struct Piece {
    OnednnReorder reorder;
    std::int64_t first;  // element of the stored weights
    std::size_t offset;  // byte of the prepared memory
  };
  std::vector<Copy> copies_;
  std::vector<Piece> pieces_;
  std::size_t bytes_ = 0;
  std::size_t scratch_bytes_ = 0;
};

}  // namespace lockstep::cpu
