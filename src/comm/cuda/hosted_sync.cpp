#include "comm/cuda/hosted_sync.h"

#include <utility>

#include "core/error.h"

namespace lockstep::cuda {
namespace {

std::size_t bytes_of(Range range) {
  return static_cast<std::size_t>(range.size()) * sizeof(float);
}

}  // namespace

HostedSync::HostedSync(std::unique_ptr<Stream> stream, std::unique_ptr<DeviceGradientSync> device,
                       std::int64_t elements, const GradientSyncOptions& options, int ranks)
    : stream_(std::move(stream)),
      device_(std::move(device)),
      elements_(elements),
      exchanges_parameters_(options.sharded && ranks > 1),
      parameters_(bytes_of({0, elements})),
      squares_(device_->squares().size_bytes()),
      done_(Event::create()) {
  for (std::size_t i = 0; i < device_->subtrees().size(); ++i) slots_.emplace_back(bytes_of({0, elements}));
  for (const TotalView& view : device_->totals())
    totals_.push_back({view.range, slots_[0].as<float>().data() + view.range.begin});
}

HostedSync::~HostedSync() = default;

std::span<float> HostedSync::slot(std::size_t i) {
  require(i < slots_.size(), "HostedSync::slot: no such slot");
  return slots_[i].as<float>();
}

void HostedSync::ready(Range range) {
  for (std::size_t i = 0; i < slots_.size(); ++i)
    copy_to_device(device_->slot(i).data() + range.begin, slots_[i].as<float>().data() + range.begin,
                   bytes_of(range), *stream_);
  device_->ready(range);
}

void HostedSync::finish() {
  device_->finish();
  const std::span<const TotalView> totals = device_->totals();
  for (std::size_t i = 0; i < totals.size(); ++i)
    copy_to_host(slots_[0].as<float>().data() + totals[i].range.begin, totals[i].data,
                 bytes_of(totals[i].range), *stream_);
  copy_to_host(squares_.data(), device_->squares().data(), squares_.size(), *stream_);
  done_.record(*stream_);
  device_->wait(done_);
}

void HostedSync::publish_parameters() {
  if (!exchanges_parameters_) return;
  for (const Range& range : device_->shard())
    copy_to_device(device_->parameters().data() + range.begin, parameters_.as<float>().data() + range.begin,
                   bytes_of(range), *stream_);
  device_->publish_parameters();
}

void HostedSync::gather_parameters(int lane, int) {
  if (lane != 0 || !exchanges_parameters_) return;
  device_->gather_parameters(0, 1);
  copy_to_host(parameters_.data(), device_->parameters().data(), bytes_of({0, elements_}), *stream_);
  done_.record(*stream_);
  device_->wait(done_);
}

}  // namespace lockstep::cuda
