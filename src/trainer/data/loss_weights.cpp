#include "trainer/data/loss_weights.h"

#include <algorithm>

#include "core/error.h"
#include "data/field_reader.h"
#include "model/graph/op_table.h"

namespace lockstep {

std::shared_ptr<const std::vector<float>> loss_weights(const Graph& graph, const Dataset& data) {
  if (!weighs_by_label(graph)) return nullptr;
  const Field& field = graph.fields[static_cast<std::size_t>(graph.loss.fields.at(0))];
  const auto reader = stored_field(data, field.name);
  require(reader->field().type == DType::i32, "labels are whole numbers");
  const LossRule& rule = *graph.loss.attrs.entry().loss;
  const Shape& input = graph.shape_of(graph.output);
  std::vector<std::int32_t> labels(
      static_cast<std::size_t>(std::max(reader->field().elements(), field.elements())));
  std::vector<float> weights(static_cast<std::size_t>(data.size()));
  for (std::int64_t i = 0; i < data.size(); ++i) {
    std::fill(labels.begin(), labels.end(), static_cast<std::int32_t>(rule.pad));
    reader->read({i, 0}, {},
                 std::as_writable_bytes(
                     std::span(labels).first(static_cast<std::size_t>(reader->field().elements()))));
    weights[static_cast<std::size_t>(i)] =
        static_cast<float>(rule.weight(graph.loss.attrs, input, labels.data()));
  }
  if (std::all_of(weights.begin(), weights.end(), [](float w) { return w == 0; }))
    throw ConfigError(data.describe() +
                      ": no sample weighs anything in the loss: look at loss.class_weights");
  return std::make_shared<const std::vector<float>>(std::move(weights));
}

}  // namespace lockstep
