#include "model/cpu/kernels/kernel.h"
#include "model/cpu/onednn/onednn.h"
#include "model/cpu/onednn/onednn_api.h"

namespace lockstep::cpu {

std::int64_t preferred_channel_block(Precision precision) {
  return with_onednn("say which layout it prefers", [&] {
    // A convolution of a common size, with nothing asked for. Measured with AVX-512 on one thread, blocks of
    // 16 take 0.95 times the time of channels-last over the 3x3 convolutions of ResNet-18 (all directions),
    // and 0.67 times on its first layer. In bf16 with AMX it prefers channels-last, which takes a tenth.
    using dnnl::memory;
    const auto any = memory::format_tag::any;
    const auto type = onednn_type(precision == Precision::bf16 ? NumberFormat::bf16 : NumberFormat::fp32);
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    const memory::desc values({16, 64, 16, 16}, type, any);
    const memory::desc weights({64, 64, 3, 3}, type, any);
    const auto chosen = describe_conv_forward(engine,
                                              {.input = values,
                                               .weights = weights,
                                               .bias = {},
                                               .output = values,
                                               .strides = {1, 1},
                                               .padding = {1, 1}},
                                              {}, IfNone::error);
    const OnednnLayout layout = layout_of(chosen.src_desc());
    if (layout.inner_dims == memory::dims{1}) return std::int64_t{layout.inner_blocks.at(0)};
    return std::int64_t{layout.strides.at(1) == 1 ? 0 : 1};
  });
}

}  // namespace lockstep::cpu
