#include "model/cpu/onednn/onednn.h"

#include "device/memory.h"
#include "model/cpu/onednn/onednn_api.h"

namespace lockstep::cpu {

std::string bf16_problem() {
  // The names of instruction sets are sets of bits: a larger set holds the smaller one.
  const auto has = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto needed = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  if ((has & needed) == needed) return {};
  return "oneDNN finds neither avx512_bf16 nor AMX";
}

OnednnContext::OnednnContext(int lanes) : engine_(dnnl::engine::kind::cpu, 0) {
  require(lanes >= 1, "OnednnContext: at least one lane");
  for (int i = 0; i < lanes; ++i) streams_.emplace_back(engine_);
}

dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

dnnl::primitive_attr user_scratchpad_with_relu() {
  dnnl::primitive_attr attributes = user_scratchpad();
  dnnl::post_ops after;
  append_relu(after);
  attributes.set_post_ops(after);
  return attributes;
}

OnednnCall::OnednnCall(const OnednnContext& context, const dnnl::primitive& primitive,
                       const std::vector<Argument>& arguments)
    : primitive_(primitive) {
  int used = 0;
  for (const Argument& argument : arguments) {
    // The library says of such a descriptor that it has no bytes.
    require(layout_of(argument.desc).offset == 0, "OnednnCall: a tensor begins at its address");
  }
  for (const Argument& argument : arguments) place_.push_back(argument.desc.get_size() > 0 ? used++ : -1);
  for (const dnnl::stream& stream : context.streams()) {
    Lane lane{stream, {}, {}};
    for (const Argument& argument : arguments) {
      if (argument.desc.get_size() == 0) continue;
      // No address yet: neither memory of its own nor anything to pad.
      lane.memories.emplace_back(argument.desc, context.engine(), nullptr);
      lane.arguments.push_back({argument.index, lane.memories.back().get()});
    }
    lanes_.push_back(std::move(lane));
  }
}

void OnednnCall::run(int lane, std::initializer_list<const void*> addresses) const {
  require(addresses.size() == place_.size(), "OnednnCall: one address per argument");
  require(lane >= 0 && static_cast<std::size_t>(lane) < lanes_.size(), "OnednnCall: no such lane");
  const Lane& own = lanes_[static_cast<std::size_t>(lane)];
  dnnl_status_t status = dnnl_success;
  std::size_t i = 0;
  for (const void* address : addresses) {
    const int place = place_[i++];
    if (place < 0) continue;
    // The library takes inputs as void* too; it writes to none of them.
    if (status == dnnl_success)
      status = dnnl_memory_set_data_handle(own.arguments[static_cast<std::size_t>(place)].memory,
                                           const_cast<void*>(address));
  }
  if (status == dnnl_success) {
    status = dnnl_primitive_execute(primitive_.get(), own.stream.get(),
                                    static_cast<int>(own.arguments.size()), own.arguments.data());
    if (status == dnnl_success) status = dnnl_stream_wait(own.stream.get());
  }
  if (status != dnnl_success)
    throw DeviceError("oneDNN could not run a primitive (status " + std::to_string(static_cast<int>(status)) +
                      ")");
}

OnednnReorder::OnednnReorder(const OnednnContext& context, const dnnl::memory::desc& from,
                             const dnnl::memory::desc& to) {
  const dnnl::reorder::primitive_desc description(context.engine(), from, context.engine(), to,
                                                  user_scratchpad());
  call_ = OnednnCall(
      context, dnnl::reorder(description),
      {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}, {DNNL_ARG_SCRATCHPAD, description.scratchpad_desc()}});
  scratch_bytes_ = description.scratchpad_desc().get_size();
}

void reorder_once(const OnednnContext& context, const dnnl::memory::desc& from, const void* source,
                  const dnnl::memory::desc& to, void* target) {
  with_onednn("convert a tensor", [&] {
    dnnl::stream stream(context.engine());
    dnnl::memory in(from, context.engine(), const_cast<void*>(source));
    dnnl::memory out(to, context.engine(), target);
    dnnl::reorder(in, out).execute(stream, in, out);
    stream.wait();
  });
}

bool has_padding(const dnnl::memory::desc& desc) {
  const OnednnLayout layout = layout_of(desc);
  return layout.padded_dims != layout.dims;
}

int implementation_grade(const std::string& name) {
  if (name.find("ref") != std::string::npos) return 0;
  // "brgemm" is a kernel of its own.
  return name.find("gemm:jit") != std::string::npos ? 1 : 2;
}

std::byte* ScratchCursor::take(std::size_t bytes) {
  std::byte* piece = next_;
  next_ += padded(bytes);
  return piece;
}

std::size_t ScratchCursor::padded(std::size_t bytes) {
  return align_up(bytes, buffer_alignment);
}

}  // namespace lockstep::cpu
