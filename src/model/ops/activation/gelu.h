#pragma once

#include "model/graph/op_table.h"

namespace lockstep::ops {

/// The formula at GeluAttrs. At minus infinity it is 0 * infinity, NaN, as it stands.
OpEntry gelu_op();

}  // namespace lockstep::ops
