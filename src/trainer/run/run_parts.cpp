#include "trainer/run/run_parts.h"

#include "core/error.h"

namespace lockstep {

DataPosition RunParts::position() const {
  const auto position = data_position(course.steps, setup.order.samples(), setup.order.global_batch());
  require(position.has_value(), "the data position is beyond int64");
  return *position;
}

}  // namespace lockstep
