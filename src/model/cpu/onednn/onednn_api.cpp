#include "model/cpu/onednn/onednn_api.h"

#include <dnnl_version.h>

namespace lockstep::cpu {

namespace {

constexpr auto training = dnnl::prop_kind::forward_training;
constexpr auto direct = dnnl::algorithm::convolution_direct;

/// How every primitive is asked for, besides what it computes.
struct Request {
  const dnnl::engine& engine;
  const dnnl::primitive_attr& attributes;
  IfNone if_none;
  bool empty() const { return if_none == IfNone::empty; }
};

}  // namespace

#if DNNL_VERSION_MAJOR >= 3

namespace {

template <class Primitive, class... What>
typename Primitive::primitive_desc describe(const Request& request, const What&... what) {
  return {request.engine, what..., request.attributes, request.empty()};
}
template <class Primitive, class Forward, class... What>
typename Primitive::primitive_desc describe_backward(const Request& request, const Forward& forward,
                                                     const What&... what) {
  return {request.engine, what..., forward, request.attributes, request.empty()};
}

}  // namespace

OnednnLayout layout_of(const dnnl::memory::desc& desc) {
  OnednnLayout out;
  out.dims = desc.get_dims();
  out.padded_dims = desc.get_padded_dims();
  out.offset = desc.get_submemory_offset();
  out.element_bytes = dnnl::memory::data_type_size(desc.get_data_type());
  out.blocked = desc.get_format_kind() == dnnl::memory::format_kind::blocked;
  if (!out.blocked) return out;
  out.strides = desc.get_strides();
  out.inner_blocks = desc.get_inner_blks();
  out.inner_dims = desc.get_inner_idxs();
  return out;
}

void append_relu(dnnl::post_ops& after) {
  after.append_eltwise(dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
}

#else

namespace {

template <class Primitive, class... What>
typename Primitive::primitive_desc describe(const Request& request, const What&... what) {
  return {typename Primitive::desc(what...), request.attributes, request.engine, request.empty()};
}
template <class Primitive, class Forward, class... What>
typename Primitive::primitive_desc describe_backward(const Request& request, const Forward& forward,
                                                     const What&... what) {
  return {typename Primitive::desc(what...), request.attributes, request.engine, forward, request.empty()};
}

}  // namespace

OnednnLayout layout_of(const dnnl::memory::desc& desc) {
  const dnnl_memory_desc_t& data = desc.data;
  OnednnLayout out;
  out.dims.assign(data.dims, data.dims + data.ndims);
  out.padded_dims.assign(data.padded_dims, data.padded_dims + data.ndims);
  out.offset = data.offset0;
  out.element_bytes = dnnl::memory::data_type_size(desc.data_type());
  out.blocked = data.format_kind == dnnl_blocked;
  if (!out.blocked) return out;
  const dnnl_blocking_desc_t& blocking = data.format_desc.blocking;
  out.strides.assign(blocking.strides, blocking.strides + data.ndims);
  out.inner_blocks.assign(blocking.inner_blks, blocking.inner_blks + blocking.inner_nblks);
  out.inner_dims.assign(blocking.inner_idxs, blocking.inner_idxs + blocking.inner_nblks);
  return out;
}

void append_relu(dnnl::post_ops& after) {
  after.append_eltwise(1.0f, dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
}

#endif

bool allocates_when_run(const std::string& implementation, bool data_gradient) {
  // Since 3.2 such names have two parts ("brg_fwd:avx512_core+brgconv:avx512_core"); before, the data
  // gradient had the name of the forward pass that it runs.
  constexpr bool some_do = DNNL_VERSION_MAJOR * 100 + DNNL_VERSION_MINOR >= 207;
  if (!some_do) return false;
  return implementation.find('+') != std::string::npos || implementation.starts_with("ip:") ||
         (data_gradient && implementation.starts_with("brgconv:"));
}

dnnl::convolution_forward::primitive_desc describe_conv_forward(const dnnl::engine& engine,
                                                                const ConvTensors& tensors,
                                                                const dnnl::primitive_attr& attributes,
                                                                IfNone if_none) {
  using Forward = dnnl::convolution_forward;
  const Request request{engine, attributes, if_none};
  const auto& t = tensors;
  if (t.bias.get_size() > 0)
    return describe<Forward>(request, training, direct, t.input, t.weights, t.bias, t.output, t.strides,
                             t.padding, t.padding);
  return describe<Forward>(request, training, direct, t.input, t.weights, t.output, t.strides, t.padding,
                           t.padding);
}

dnnl::convolution_backward_data::primitive_desc describe_conv_data(
    const dnnl::engine& engine, const ConvTensors& tensors, const dnnl::primitive_attr& attributes,
    const dnnl::convolution_forward::primitive_desc& forward, IfNone if_none) {
  const auto& t = tensors;
  return describe_backward<dnnl::convolution_backward_data>({engine, attributes, if_none}, forward, direct,
                                                            t.input, t.weights, t.output, t.strides,
                                                            t.padding, t.padding);
}

dnnl::convolution_backward_weights::primitive_desc describe_conv_weights(
    const dnnl::engine& engine, const ConvTensors& tensors, const dnnl::primitive_attr& attributes,
    const dnnl::convolution_forward::primitive_desc& forward, IfNone if_none) {
  using Weights = dnnl::convolution_backward_weights;
  const Request request{engine, attributes, if_none};
  const auto& t = tensors;
  if (t.bias.get_size() > 0)
    return describe_backward<Weights>(request, forward, direct, t.input, t.weights, t.bias, t.output,
                                      t.strides, t.padding, t.padding);
  return describe_backward<Weights>(request, forward, direct, t.input, t.weights, t.output, t.strides,
                                    t.padding, t.padding);
}

dnnl::inner_product_forward::primitive_desc describe_inner_product(const dnnl::engine& engine,
                                                                   const ProductTensors& tensors,
                                                                   const dnnl::primitive_attr& attributes,
                                                                   IfNone if_none) {
  using Forward = dnnl::inner_product_forward;
  const Request request{engine, attributes, if_none};
  const auto& t = tensors;
  if (t.bias.get_size() > 0)
    return describe<Forward>(request, training, t.input, t.weights, t.bias, t.output);
  return describe<Forward>(request, training, t.input, t.weights, t.output);
}

dnnl::inner_product_backward_weights::primitive_desc describe_inner_product_weights(
    const dnnl::engine& engine, const ProductTensors& tensors, const dnnl::primitive_attr& attributes,
    const dnnl::inner_product_forward::primitive_desc& forward, IfNone if_none) {
  return describe_backward<dnnl::inner_product_backward_weights>(
      {engine, attributes, if_none}, forward, tensors.input, tensors.weights, tensors.output);
}

dnnl::matmul::primitive_desc describe_matmul(const dnnl::engine& engine, const ProductTensors& tensors,
                                             const dnnl::primitive_attr& attributes) {
  const Request request{engine, attributes, IfNone::error};
  const auto& t = tensors;
  if (t.bias.get_size() > 0) return describe<dnnl::matmul>(request, t.input, t.weights, t.bias, t.output);
  return describe<dnnl::matmul>(request, t.input, t.weights, t.output);
}

}  // namespace lockstep::cpu
