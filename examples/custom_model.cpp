// A model of one's own, from C++: a small residual network, which is no sequence of layers. The function
// below says what the graph is; everything else (config, data, ranks, checkpoints, resuming, reports) is what
// `lockstep` has.
//
//   mpirun -n 2 build-examples/custom_model train --config examples/custom_model.ini --run.dir runs/custom
//   build-examples/custom_model evaluate --run runs/custom
//
// Any number of ranks gives the same bits: compare with `lockstep digest runs/custom`.

#include <lockstep/lockstep.h>

using namespace lockstep;

namespace {

// conv, batch norm, relu, conv, batch norm; the input is added to what comes out. Shapes are those of one
// sample: (channels, height, width).
ValueId residual_block(GraphBuilder& net, ValueId x) {
  const std::int64_t channels = net.shape_of(x)[0];
  const Conv2dAttrs conv = {
      .out_channels = channels, .kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1, .bias = false};
  ValueId y = net.conv2d(x, conv);
  y = net.batch_norm(y);
  y = net.relu(y);
  y = net.conv2d(y, conv);
  y = net.batch_norm(y);
  return net.relu(net.add(y, x));
}

Graph build_graph(const Shape& sample, std::int64_t outputs, LossKind loss) {
  GraphBuilder net("residual_example");
  ValueId x = net.input(sample);
  x = net.conv2d(x, {.out_channels = 16, .kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1}, "stem");
  x = net.relu(x);
  x = net.max_pool(x, {.kernel_h = 2, .kernel_w = 2, .stride_h = 2, .stride_w = 2});
  x = residual_block(net, x);
  x = residual_block(net, x);
  x = net.global_avg_pool(x);
  x = net.flatten(x);
  x = net.dense(x, {.out_features = outputs}, "head");
  return net.finish(x, loss);
}

}  // namespace

int main(int argc, char** argv) {
  return run_application(argc, argv, build_graph);
}
#include "model/ops/linear/conv2d.h"
