#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "core/error.h"
#include "model/cuda/plan/step_program.h"
#include "trainer/step/device_step.h"

namespace lockstep {

/// DeviceStep over a queue as model/cuda/run/engine.h wants its Machine: a GPU's, or in tests the host's.
template <class Queue>
class MachineStep final : public DeviceStep {
 public:
  explicit MachineStep(std::unique_ptr<Queue> queue) : queue_(std::move(queue)) {
    scalars_ = reinterpret_cast<cuda::StepScalars*>(queue_->allocate(sizeof(cuda::StepScalars)));
    decision_ = reinterpret_cast<cuda::StepDecision*>(queue_->allocate(sizeof(cuda::StepDecision)));
  }

  void write(DevicePointer<float> device, std::span<const float> host) override {
    if (host.empty()) return;
    std::byte* pinned = staging(host.size_bytes());
    wait();  // nothing may still read the staging memory
    std::memcpy(pinned, host.data(), host.size_bytes());
    queue_->copy_in(device.address(), pinned, host.size_bytes(), cuda::Lane::compute);
    wait();
  }
  void read(DevicePointer<const float> device, std::span<float> host) override {
    fetch(device.address(), std::as_writable_bytes(host));
  }
  void read(DevicePointer<const double> device, std::span<double> host) override {
    fetch(device.address(), std::as_writable_bytes(host));
  }

  void prepare(const DeviceStepSetup& setup) override {
    rule_ = setup.rule;
    const auto kept = static_cast<std::size_t>(setup.places);
    decisions_out_ =
        reinterpret_cast<cuda::StepDecision*>(queue_->allocate_pinned(kept * sizeof(cuda::StepDecision)));
    taken_.assign(kept, false);
    queue_->make_marks(marks * setup.places);
    for (std::size_t i = 0; i < setup.buffers; ++i)
      state_.push_back(allocate<float>(static_cast<std::size_t>(std::max<std::int64_t>(setup.elements, 1))));
    kinds_ = copied(std::span(setup.kinds));
    blocks_ = static_cast<std::int64_t>(setup.kinds.size()) * cuda::granule_elements / block_elements + 1;
    const auto blocks = static_cast<std::size_t>(blocks_);
    squares_ = allocate<double>(blocks);
    block_parts_ = allocate<double>(blocks * cuda::block_parts);
    // Levels of the tree one behind the other: each at most a 32nd of the one below, and one.
    partial_sums_ = allocate<double>(blocks / (cuda::tree_leaves / 2) + 64);
    pieces_ = setup.pieces;
    if (pieces_.empty()) return;
    pieces_there_ = copied(std::span(setup.pieces));
    piece_parts_ = allocate<double>(pieces_.size() * 2 * cuda::block_parts);
    piece_sums_ = allocate<double>(pieces_.size() * 2);
    trusts_ = allocate<float>(setup.segments);
  }
  DevicePointer<float> state(std::size_t buffer) override { return DevicePointer<float>(state_.at(buffer)); }

  void sum_squares(std::span<const DeviceTotal> totals, std::span<double> sums) override {
    sum_blocks(totals, {DevicePointer<double>(squares_), sums.size()}, false);
    std::vector<double>& all = fetched_;
    all.resize(sums.size());
    fetch(squares_, std::as_writable_bytes(std::span(all)));
    for (const DeviceTotal& view : totals)
      for (std::int64_t e = view.range.begin; e < view.range.end; e += block_elements)
        sums[static_cast<std::size_t>(e / block_elements)] =
            all[static_cast<std::size_t>(e / block_elements)];
  }

  void sum_blocks(std::span<const DeviceTotal> totals, DeviceSpan<double> sums, bool all_finite) override {
    require(static_cast<std::int64_t>(sums.size()) <= blocks_, "more blocks than the flat buffer has");
    for (const DeviceTotal& view : totals) {
      if (view.range.size() <= 0) continue;
      require(view.range.begin % block_elements == 0, "totals are not cut at block edges");
      const std::int64_t blocks = (view.range.size() + block_elements - 1) / block_elements;
      queue_->each(blocks * cuda::block_parts,
                   cuda::SquaresOfBlock{view.data.address(), block_parts_, kinds_, view.range.begin,
                                        view.range.end, all_finite});
      queue_->each(blocks, cuda::SumOfBlock{block_parts_,
                                            (sums.data() + view.range.begin / block_elements).address()});
    }
  }

  void begin(int place, const cuda::StepScalars& scalars) override {
    place_ = static_cast<std::size_t>(place);
    if (taken_.at(place_)) wait();  // the place's decision may still be on its way
    taken_[place_] = true;
    // As an argument of a kernel: a copy would stand behind the next step's input on the way to the device.
    queue_->each(1, cuda::StoreScalars{scalars_, scalars});
  }

  void decide(DeviceSpan<const double> sums, double max_norm, const LossScaleOptions* scaling) override {
    auto n = static_cast<std::int64_t>(sums.size());
    require(n > 0 && n <= blocks_, "a decision needs the sums of all blocks");
    const double* from = sums.data().address();
    double* to = partial_sums_;
    while (n > 1) {
      const std::int64_t groups = (n + cuda::tree_leaves - 1) / cuda::tree_leaves;
      queue_->each(groups, cuda::TreeOfGroup{from, to, n});
      from = to;
      to += groups;
      n = groups;
    }
    queue_->each(1, cuda::DecideStep{from, decision_, scalars_, max_norm, scaling != nullptr,
                                     scaling != nullptr ? *scaling : LossScaleOptions{}});
  }
  void resume() override { queue_->each(1, cuda::Zero{&decision_->halted}); }
  DevicePointer<const float> loss_scale() const override {
    return DevicePointer<const float>(&decision_->loss_scale.scale);
  }
  void set_loss_scale(const LossScale& state) override {
    queue_->each(1, cuda::SetLossScale{&decision_->loss_scale, state});
  }

  void update(std::span<const DeviceTotal> totals, std::span<const std::int64_t> state_offsets,
              DevicePointer<float> parameters, DecisionUse follow) override {
    const float* clip = follow == DecisionUse::clip ? &decision_->clip : nullptr;
    const float* skip = follow != DecisionUse::nothing ? &decision_->skip : nullptr;
    for (std::size_t i = 0; i < totals.size(); ++i) {
      const DeviceTotal& view = totals[i];
      const auto at = [&](std::size_t buffer) {
        return buffer < state_.size() ? state_[buffer] + state_offsets[i] : nullptr;
      };
      with_rule(rule_, [&](auto rule) {
        queue_->each(view.range.size(), cuda::OptimizerUpdate<decltype(rule)>{parameters.address(),
                                                                              view.data.address(),
                                                                              {at(0), at(1)},
                                                                              kinds_,
                                                                              scalars_,
                                                                              clip,
                                                                              skip,
                                                                              view.range.begin,
                                                                              trusts_});
      });
    }
  }

  void measure(std::span<const DeviceTotal> totals, std::span<const std::int64_t> state_offsets,
               DevicePointer<float> parameters, std::span<double> sums) override {
    fetched_.resize(sums.size());
    for (std::size_t i = 0; i < totals.size(); ++i) {
      const DeviceTotal& view = totals[i];
      const auto [first, last] = pieces_in(view.range);
      if (first == last) continue;
      const auto at = [&](std::size_t buffer) {
        return buffer < state_.size() ? state_[buffer] + state_offsets[i] : nullptr;
      };
      double* parts = piece_parts_ + first * 2 * cuda::block_parts;
      with_rule(rule_, [&](auto rule) {
        using Rule = decltype(rule);
        if constexpr (Rule::need == rules::Need::norms)
          queue_->each(static_cast<std::int64_t>(last - first) * cuda::block_parts,
                       cuda::MeasurePiece<Rule>{parameters.address(),
                                                view.data.address(),
                                                {at(0), at(1)},
                                                kinds_,
                                                scalars_,
                                                pieces_there_ + first,
                                                parts,
                                                view.range.begin});
      });
      queue_->each(static_cast<std::int64_t>(last - first) * 2,
                   cuda::SumOfBlock{parts, piece_sums_ + 2 * first});
    }
    fetch(piece_sums_, std::as_writable_bytes(std::span(fetched_)));
    for (const DeviceTotal& view : totals) {
      const auto [first, last] = pieces_in(view.range);
      std::copy_n(fetched_.begin() + static_cast<std::ptrdiff_t>(2 * first), 2 * (last - first),
                  sums.begin() + static_cast<std::ptrdiff_t>(2 * first));
    }
  }
  void set_trusts(std::span<const float> trusts) override { write(DevicePointer<float>(trusts_), trusts); }

  void end() override {
    queue_->copy_out(decisions_out_ + place_, decision_, sizeof(cuda::StepDecision), cuda::Lane::compute);
  }
  void finish() override { wait(); }
  cuda::StepDecision decision(int place) const override { return decisions_out_[place]; }
  void mark(Mark point) override { queue_->mark(mark_of(static_cast<int>(place_), point)); }
  double seconds_between(int from_place, Mark from, int to_place, Mark to) const override {
    return queue_->seconds_between(mark_of(from_place, from), mark_of(to_place, to));
  }

 private:
  template <class T>
  T* allocate(std::size_t n) {
    return reinterpret_cast<T*>(queue_->allocate(n * sizeof(T)));
  }
  /// On the device.
  template <class T>
  T* copied(std::span<const T> from) {
    T* there = allocate<T>(from.size());
    std::byte* pinned = staging(from.size_bytes());
    std::memcpy(pinned, from.data(), from.size_bytes());
    queue_->copy_in(there, pinned, from.size_bytes(), cuda::Lane::compute);
    wait();
    return there;
  }
  /// Numbers of the pieces that begin in a range.
  std::pair<std::size_t, std::size_t> pieces_in(Range range) const {
    const auto number_of = [&](std::int64_t element) {
      const auto found = std::lower_bound(pieces_.begin(), pieces_.end(), element,
                                          [](const Range& r, std::int64_t e) { return r.begin < e; });
      return static_cast<std::size_t>(found - pieces_.begin());
    };
    return {number_of(range.begin), number_of(range.end)};
  }
  static int mark_of(int place, Mark point) { return place * marks + static_cast<int>(point); }
  void wait() {
    queue_->finish();
    std::fill(taken_.begin(), taken_.end(), false);
  }
  std::byte* staging(std::size_t bytes) {
    if (bytes > staged_bytes_) {
      staged_ = queue_->allocate_pinned(bytes);
      staged_bytes_ = bytes;
    }
    return staged_;
  }
  void fetch(const void* device, std::span<std::byte> host) {
    if (host.empty()) return;
    std::byte* pinned = staging(host.size());
    queue_->copy_out(pinned, device, host.size(), cuda::Lane::compute);
    wait();
    std::memcpy(host.data(), pinned, host.size());
  }

  std::unique_ptr<Queue> queue_;
  RuleId rule_ = {};
  cuda::StepScalars* scalars_ = nullptr;
  cuda::StepDecision* decisions_out_ = nullptr;  // pinned, by place
  cuda::StepDecision* decision_ = nullptr;
  std::vector<bool> taken_;  // places since the last wait
  std::size_t place_ = 0;
  std::vector<float*> state_;
  cuda::GranuleKind* kinds_ = nullptr;
  double* squares_ = nullptr;
  double* block_parts_ = nullptr;
  double* partial_sums_ = nullptr;
  std::int64_t blocks_ = 0;
  std::vector<Range> pieces_;  // with rules that need norms, as what follows
  Range* pieces_there_ = nullptr;
  double* piece_parts_ = nullptr;
  double* piece_sums_ = nullptr;
  float* trusts_ = nullptr;
  std::byte* staged_ = nullptr;  // pinned
  std::size_t staged_bytes_ = 0;
  std::vector<double> fetched_;
};

}  // namespace lockstep
