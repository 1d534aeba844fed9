#pragma once

#include <cstddef>
#include <dnnl.hpp>
#include <string>

namespace lockstep::cpu {

// What oneDNN 2 and oneDNN 3 spell differently. The rest of Lockstep uses the part of the library that both
// have; only onednn_api.cpp asks for the version. (oneDNN 3 made memory descriptors opaque and dropped the
// operation descriptors: its developer guide, "Transition from v2.x to v3.x".)

/// How a tensor lies in memory. Extents count elements, outermost dimension of the tensor first.
struct OnednnLayout {
  dnnl::memory::dims dims;
  dnnl::memory::dims padded_dims;  ///< rounded up to whole blocks
  dnnl::memory::dim offset = 0;    ///< of the first element from the tensor's address
  std::size_t element_bytes = 0;
  bool blocked = false;             ///< else the three below are empty
  dnnl::memory::dims strides;       ///< of each dimension, from block to block
  dnnl::memory::dims inner_blocks;  ///< sizes of the blocks, outermost first
  dnnl::memory::dims inner_dims;    ///< the dimension that each block cuts
};
OnednnLayout layout_of(const dnnl::memory::desc& desc);

/// max(x, 0).
void append_relu(dnnl::post_ops& after);

/// A convolution of this name takes memory with posix_memalign each time it runs. From 2.7 on, some run
/// another primitive within, and for that one's part of the scratch memory the library makes an object of 56
/// bytes so; the small objects that every call of every primitive makes come from operator new.
/// `data_gradient`: the name is one of the gradient of the input.
bool allocates_when_run(const std::string& implementation, bool data_gradient);

/// What a library without an implementation for the given layouts leads to.
enum class IfNone { error, empty };

/// The tensors of a convolution, or their gradients. Padding is the same on both sides.
struct ConvTensors {
  dnnl::memory::desc input, weights;
  dnnl::memory::desc bias;  ///< of no bytes: none
  dnnl::memory::desc output;
  dnnl::memory::dims strides, padding;
};

// Descriptions of primitives; they throw dnnl::error. All convolutions are direct ones: Winograd's lose
// accuracy. Those of backward passes take the description of the forward pass that they belong to.
dnnl::convolution_forward::primitive_desc describe_conv_forward(const dnnl::engine& engine,
                                                                const ConvTensors& tensors,
                                                                const dnnl::primitive_attr& attributes,
                                                                IfNone if_none);
/// Leaves the bias out.
dnnl::convolution_backward_data::primitive_desc describe_conv_data(
    const dnnl::engine& engine, const ConvTensors& tensors, const dnnl::primitive_attr& attributes,
    const dnnl::convolution_forward::primitive_desc& forward, IfNone if_none);
dnnl::convolution_backward_weights::primitive_desc describe_conv_weights(
    const dnnl::engine& engine, const ConvTensors& tensors, const dnnl::primitive_attr& attributes,
    const dnnl::convolution_forward::primitive_desc& forward, IfNone if_none);

/// The operands of a product of matrices. oneDNN's inner product takes its weights as (out, in).
struct ProductTensors {
  dnnl::memory::desc input, weights;
  dnnl::memory::desc bias;  ///< of no bytes: none
  dnnl::memory::desc output;
};
dnnl::inner_product_forward::primitive_desc describe_inner_product(const dnnl::engine& engine,
                                                                   const ProductTensors& tensors,
                                                                   const dnnl::primitive_attr& attributes,
                                                                   IfNone if_none);
/// Leaves the bias out.
dnnl::inner_product_backward_weights::primitive_desc describe_inner_product_weights(
    const dnnl::engine& engine, const ProductTensors& tensors, const dnnl::primitive_attr& attributes,
    const dnnl::inner_product_forward::primitive_desc& forward, IfNone if_none);
dnnl::matmul::primitive_desc describe_matmul(const dnnl::engine& engine, const ProductTensors& tensors,
                                             const dnnl::primitive_attr& attributes);

}  // namespace lockstep::cpu
