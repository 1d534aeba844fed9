#include "model/ops/op_table.h"

#include <array>

#include "model/ops/add.h"
#include "model/ops/avg_pool.h"
#include "model/ops/batch_norm.h"
#include "model/ops/conv2d.h"
#include "model/ops/dense.h"
#include "model/ops/dropout.h"
#include "model/ops/flatten.h"
#include "model/ops/gelu.h"
#include "model/ops/global_avg_pool.h"
#include "model/ops/max_pool.h"
#include "model/ops/relu.h"
#include "model/ops/softmax.h"

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
