#include "model/graph/op_table.h"

#include <array>

#include "model/ops/activation/gelu.h"
#include "model/ops/activation/relu.h"
#include "model/ops/activation/softmax.h"
#include "model/ops/arithmetic/add.h"
#include "model/ops/linear/conv2d.h"
#include "model/ops/linear/dense.h"
#include "model/ops/norm/batch_norm.h"
#include "model/ops/pool/avg_pool.h"
#include "model/ops/pool/global_avg_pool.h"
#include "model/ops/pool/max_pool.h"
#include "model/ops/random/dropout.h"
#include "model/ops/shape/flatten.h"

namespace lockstep {

std::span<const OpEntry> op_table() {
  // In the order of OpAttrs, so that attrs.index() is the row.
  static const std::array<OpEntry, std::variant_size_v<OpAttrs>> table = {ops::conv2d_op(),
                                                                          ops::dense_op(),
                                                                          ops::max_pool_op(),
                                                                          ops::avg_pool_op(),
                                                                          ops::global_avg_pool_op(),
                                                                          ops::batch_norm_op(),
                                                                          ops::relu_op(),
                                                                          ops::gelu_op(),
                                                                          ops::add_op(),
                                                                          ops::flatten_op(),
                                                                          ops::dropout_op(),
                                                                          ops::softmax_op()};
  return table;
}

const OpEntry& op_entry(const OpAttrs& attrs) {
  return op_table()[attrs.index()];
}

}  // namespace lockstep
