#include "model/plan/row_lengths.h"

#include <algorithm>

#include "core/error.h"
#include "core/index.h"
#include "model/graph/op_entry.h"

namespace lockstep {

void fill_row_lengths(const Graph& graph, const Batch& batch, std::span<std::int32_t> out) {
  const std::size_t rows = at(batch.rows);
  require(out.size() == graph.lengths.size() * rows, "lengths of another graph");
  for (std::size_t i = 0; i < graph.lengths.size(); ++i) {
    const RowLengths& lengths = graph.lengths[i];
    const std::span<std::int32_t> to = out.subspan(i * rows, rows);
    if (lengths.field >= 0) {
      const FieldRows field = batch.field(at(lengths.field));
      require(field.lengths.size() == rows, "a ragged field came without lengths");
      const std::int64_t most = graph.fields[at(lengths.field)].shape[0];
      for (std::size_t r = 0; r < rows; ++r) {
        to[r] = r < at(batch.valid) ? field.lengths[r] : 0;
        require(to[r] >= 0 && to[r] <= most, "a row is longer than its field");
      }
      continue;
    }
    const std::span<const std::int32_t> from = out.subspan(at(lengths.from) * rows, rows);
    for (std::size_t r = 0; r < rows; ++r)
      to[r] =
          from[r] == 0 ? 0 : static_cast<std::int32_t>(lengths.attrs.entry().length(lengths.attrs, from[r]));
  }
}

PaddingMask padding_mask(const Graph& graph, const OpNode& node, ValueId value) {
  const Value& v = graph.values[at(value)];
  if (v.lengths < 0 || node.attrs.entry().traits.keeps_padding) return {};
  return {v.lengths, v.shape[0], v.shape.elements() / v.shape[0]};
}

}  // namespace lockstep
