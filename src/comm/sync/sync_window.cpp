#include "comm/sync/sync_window.h"

#include <new>

#include "device/memory.h"

namespace lockstep {
namespace {

struct Offsets {
  std::size_t ready, arrived, slots, slot_stride, parameters, marks, end;
};

Offsets offsets_of(const SyncWindow::Sizes& s) {
  const auto buckets = static_cast<std::size_t>(s.buckets);
  Offsets o{};
  o.ready = align_up(sizeof(SyncWindow::Counters), 64);
  o.arrived = o.ready + buckets * sizeof(SharedCounter);
  o.slots = align_up(o.arrived + buckets * sizeof(SharedCounter), page_bytes());
  o.slot_stride = align_up(static_cast<std::size_t>(s.elements) * sizeof(float), page_bytes());
  o.parameters = o.slots + static_cast<std::size_t>(s.slots) * o.slot_stride;
  o.marks = o.parameters + o.slot_stride;
  o.end = align_up(o.marks + static_cast<std::size_t>(s.blocks) * sizeof(double), page_bytes());
  return o;
}

}  // namespace

std::size_t SyncWindow::Sizes::bytes() const {
  return offsets_of(*this).end;
}

SyncWindow::SyncWindow(Communicator& comm, const Sizes& sizes)
    : sizes_(sizes), region_(comm.allocate_shared(sizes.bytes())) {
  const Offsets o = offsets_of(sizes_);
  std::byte* mine = region_->base(comm.rank());
  new (mine) Counters;
  for (std::int64_t b = 0; b < 2 * sizes_.buckets; ++b) {
    new (mine + o.ready + static_cast<std::size_t>(b) * sizeof(SharedCounter)) SharedCounter;
  }
  comm.barrier();
}

SyncWindow::Counters& SyncWindow::counters(int rank) const {
  return *std::launder(reinterpret_cast<Counters*>(region_->base(rank)));
}

SharedCounter& SyncWindow::ready(int rank, std::int64_t bucket) const {
  return std::launder(
      reinterpret_cast<SharedCounter*>(region_->base(rank) + offsets_of(sizes_).ready))[bucket];
}

SharedCounter& SyncWindow::arrived(int rank, std::int64_t bucket) const {
  return std::launder(
      reinterpret_cast<SharedCounter*>(region_->base(rank) + offsets_of(sizes_).arrived))[bucket];
}

float* SyncWindow::slot(int rank, std::int64_t i) const {
  const Offsets o = offsets_of(sizes_);
  return reinterpret_cast<float*>(region_->base(rank) + o.slots +
                                  static_cast<std::size_t>(i) * o.slot_stride);
}

float* SyncWindow::parameters(int rank) const {
  return reinterpret_cast<float*>(region_->base(rank) + offsets_of(sizes_).parameters);
}

double* SyncWindow::marks(int rank) const {
  return reinterpret_cast<double*>(region_->base(rank) + offsets_of(sizes_).marks);
}

}  // namespace lockstep
