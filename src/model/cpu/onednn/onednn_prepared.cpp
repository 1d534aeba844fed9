#include "model/cpu/onednn/onednn_prepared.h"

#include <algorithm>

#include "model/cpu/onednn/onednn_api.h"

namespace lockstep::cpu {

std::size_t PreparedWeights::add(const OnednnContext& context, const dnnl::memory::desc& storage,
                                 const dnnl::memory::dims& from, const dnnl::memory::desc& wanted) {
  if (wanted == storage) return stored;
  for (const Copy& copy : copies_)
    if (copy.storage == storage && copy.from == from && copy.wanted == wanted) return copy.offset;
  const std::size_t offset = bytes_;
  copies_.push_back({storage, from, wanted, offset});
  bytes_ += ScratchCursor::padded(wanted.get_size());

  const dnnl::memory::dims whole = layout_of(wanted).dims;
  // Blocks of channels are of 64 at most; a megabyte takes about 70 microseconds.
  constexpr dnnl::memory::dim step_unit = 64;
  constexpr std::size_t piece_bytes = std::size_t{1} << 20;
  dnnl::memory::dim step = whole[0];
  const auto pieces =
      static_cast<dnnl::memory::dim>(std::min<std::size_t>(4, wanted.get_size() / piece_bytes));
  if (pieces > 1 && whole[0] % (step_unit * pieces) == 0 && !has_padding(wanted)) step = whole[0] / pieces;
  for (dnnl::memory::dim begin = 0; begin < whole[0]; begin += step) {
    dnnl::memory::dims extent = whole, source = from, target(whole.size(), 0);
    extent[0] = step;
    source[0] += begin;
    target[0] = begin;
    // Addresses are moved instead of descriptors: oneDNN has faster code for a part that begins at element 0.
    // The whole is not asked for as a part of itself: oneDNN 2.5 has no parts of a padded layout.
    const dnnl::memory::dims origin(whole.size(), 0);
    const bool all = step == whole[0];
    const std::int64_t read = layout_of(storage.submemory_desc(extent, source)).offset;
    const std::int64_t written = all ? 0 : layout_of(wanted.submemory_desc(extent, target)).offset;
    pieces_.push_back({OnednnReorder(context, storage.submemory_desc(extent, origin),
                                     all ? wanted : wanted.submemory_desc(extent, origin)),
                       read, offset + static_cast<std::size_t>(written) * layout_of(wanted).element_bytes});
    scratch_bytes_ = std::max(scratch_bytes_, pieces_.back().reorder.scratch_bytes());
  }
  return offset;
}

}  // namespace lockstep::cpu
