#pragma once

// A step of the Engine and the actions that it is made of. Part of model/cuda/run/engine.h, which includes
// it.

namespace lockstep::cuda {

template <class Machine>
void Engine<Machine>::step(const StepInputs& inputs, std::span<const std::span<float>> outputs) {
  check(inputs);
  require(options_.device_buffers ||
              (!inputs.only_enqueue && !inputs.spread_nonfinite_loss && inputs.device_loss_scale == nullptr),
          "executor: the gradient does not lie on the device");
  if (parameters_ != nullptr && device_scale_ != inputs.device_loss_scale) forget_captured();
  device_scale_ = inputs.device_loss_scale;
  take_parameters(inputs);
  if (plan_.training && options_.device_buffers) take_roots(inputs);
  inputs_now_ = &inputs;
  want_outputs_ = !outputs.empty();
  spread_loss_ = inputs.spread_nonfinite_loss;
  pending_.clear();
  for (std::size_t i = 0; i < inputs.slices.size(); ++i)
    counted_[place_of(inputs.place, i)] = {inputs.slices[i].valid, answers(inputs.slices[i])};
  const StepProgram& program = programs_[turn_];
  if (options_.whole_step) {
    perform(program, 0, program.body_begin);
    whole_step(inputs, program);
    perform(program, program.body_end, program.actions.size());
  } else {
    begin_slices(inputs);
    perform(program, 0, program.actions.size());
  }
  turn_ = (turn_ + 1) % programs_.size();
  for (const Announce& announce : pending_) {
    while (!machine_->reached(announce.event)) {
      if (inputs.listener != nullptr) inputs.listener->progress();
    }
    // A listener may look at the losses, which left the device before any gradient.
    if (&announce == &pending_.front()) give_results(inputs.place, inputs.results);
    for (std::size_t r = 0; r < roots_out_.size(); ++r)
      std::memcpy(inputs.roots[r].data() + announce.flat.begin, roots_out_[r] + announce.flat.begin,
                  static_cast<std::size_t>(announce.flat.size()) * sizeof(float));
    if (inputs.listener != nullptr) inputs.listener->ready(announce.flat);
  }
  if (inputs.only_enqueue) return;
  machine_->finish();
  give_results(inputs.place, inputs.results);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (inputs.slices[i].valid > 0)
      std::copy_n(outputs_out_ + i * output_elements(), outputs[i].size(), outputs[i].begin());
    else
      std::fill(outputs[i].begin(), outputs[i].end(), 0.0f);
  }
}

template <class Machine>
void Engine<Machine>::whole_step(const StepInputs& inputs, const StepProgram& program) {
  const auto body = [&] {
    begin_slices(inputs);
    if (inputs.frame != nullptr) inputs.frame->begin();
    perform(program, program.body_begin, program.body_end);
    if (inputs.frame != nullptr) inputs.frame->end();
  };
  const bool full = std::all_of(inputs.slices.begin(), inputs.slices.end(),
                                [](const Batch& batch) { return batch.valid > 0; });
  const std::uint64_t key = whole_key | (static_cast<std::uint64_t>(turn_) << 2) |
                            (inputs.parameters_changed ? 2u : 0u) | (spread_loss_ ? 1u : 0u);
  if (full && inputs.slice_listener == nullptr && inputs.inspector == nullptr && inputs.only_enqueue)
    machine_->run(key, body);
  else
    body();
  for (const StepAction& action : program.actions)
    if (const auto* a = std::get_if<RunForward>(&action)) fetch_result(*a);
  if (inputs.listener != nullptr) inputs.listener->progress();
}

template <class Machine>
void Engine<Machine>::perform(const Upload& a) {
  const Batch& batch = batch_of(*inputs_now_, a.slice);
  if (batch.valid == 0) return;
  // The last copy out of this pinned buffer must have been made before it is written again; that is the
  // only thing that keeps the host from running ahead of the device.
  const int staging = staging_next_;
  staging_next_ = (staging_next_ + 1) % staging_buffers;
  machine_->host_wait(staged_event(staging));
  std::byte* to = staged_[static_cast<std::size_t>(staging)];
  SliceHeader header;
  header.valid = batch.valid;
  header.seed = inputs_now_->seed;
  header.step = inputs_now_->step;
  header.loss_scale = inputs_now_->loss_scale;
  staging_.fill(to, header, batch);
  machine_->copy_in(inputs_[static_cast<std::size_t>(a.buffer)], to, staging_.bytes(), Lane::upload);
  machine_->record(staged_event(staging), Lane::upload);
}

template <class Machine>
void Engine<Machine>::perform(const RunForward& a) {
  const Batch& batch = batch_of(*inputs_now_, a.slice);
  if (batch.valid == 0) return;
  const bool with_answers = answers(batch);
  if (inputs_now_->inspector != nullptr)
    inspect_forward(a, batch);
  else
    run_piece(capture_key(0, a.slot, a.buffer, with_answers), [&] {
      with_type([&](auto type) {
        Runner<decltype(type), Machine> runner(plan_, *machine_, memory(a.slot, a.buffer));
        runner.forward();
        runner.loss(with_answers);
      });
    });
  const auto i = static_cast<std::size_t>(a.slice - options_.mine.begin);
  if (!options_.whole_step) fetch_result(a);
  if (with_answers && spread_loss_)
    machine_->each(1,
                   WatchLoss{reinterpret_cast<const LossSums*>(results_[static_cast<std::size_t>(a.buffer)]),
                             loss_watch_});
  if (want_outputs_)
    machine_->copy_out(outputs_out_ + i * output_elements(), arena_ + plan_.loss.plain,
                       output_elements() * sizeof(float), Lane::compute);
  if (inputs_now_->listener != nullptr) inputs_now_->listener->progress();
}

template <class Machine>
void Engine<Machine>::perform(const RunSegment& a) {
  const Batch& batch = batch_of(*inputs_now_, a.slice);
  const Segment& segment = plan_.segments[static_cast<std::size_t>(a.segment)];
  float* slot = slots_[static_cast<std::size_t>(a.slot)];
  if (batch.valid == 0) {  // a slice without a sample contributes nothing: its sums are zeros
    if (segment.flat.size() > 0) machine_->each(segment.flat.size(), Zero{slot + segment.flat.begin});
  } else if (inputs_now_->inspector != nullptr) {
    inspect_backward(a, batch, segment);
  } else {
    run_piece(capture_key(1 + a.segment, a.slot, a.buffer, true), [&] {
      with_type([&](auto type) {
        Runner<decltype(type), Machine>(plan_, *machine_, memory(a.slot, a.buffer))
            .backward(segment.first, segment.last);
      });
    });
  }
  if (inputs_now_->slice_listener != nullptr && segment.flat.size() > 0)
    show_slice(a.slice, slot, segment.flat);
  if (inputs_now_->listener != nullptr) inputs_now_->listener->progress();
}

template <class Machine>
void Engine<Machine>::perform(const MergeSlots& a) {
  float* into = slots_[static_cast<std::size_t>(a.into)] + a.flat.begin;
  const float* from = slots_[static_cast<std::size_t>(a.from)] + a.flat.begin;
  machine_->each(a.flat.size(), Add<float>{into, from, into});
}

template <class Machine>
void Engine<Machine>::perform(const Download& a) {
  for (std::size_t r = 0; r < roots_out_.size(); ++r)
    machine_->copy_out(roots_out_[r] + a.flat.begin, slots_[r] + a.flat.begin,
                       static_cast<std::size_t>(a.flat.size()) * sizeof(float), Lane::download);
}

template <class Machine>
void Engine<Machine>::perform(const Announce& a) {
  if (a.event >= 0) {
    pending_.push_back(a);
    return;
  }
  // What is announced first comes after the last slice's loss.
  if (spread_loss_) machine_->each(1, SpreadNonfinite{loss_watch_, slots_[0] + a.flat.begin});
  spread_loss_ = false;
  if (inputs_now_->listener != nullptr) inputs_now_->listener->ready(a.flat);
}

template <class Machine>
void Engine<Machine>::show_slice(std::int64_t slice, float* slot, Range flat) {
  const std::span<float> seen = inspector_.see(slot + flat.begin, flat.size());
  inputs_now_->slice_listener->slice_ready(slice, flat, seen);
  inspector_.put_back(slot + flat.begin, seen);
}

template <class Machine>
void Engine<Machine>::inspect_forward(const RunForward& a, const Batch& batch) {
  with_type([&](auto type) {
    Runner<decltype(type), Machine> runner(plan_, *machine_, memory(a.slot, a.buffer));
    runner.take_input();
    for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
      const PlannedOp& op = plan_.ops[i];
      const int last =
          i + 1 < plan_.ops.size() ? plan_.ops[i + 1].first_command : static_cast<int>(plan_.forward.size());
      runner.forward(op.first_command, last);
      inputs_now_->inspector->forward(op.nodes, fetch<decltype(type)>(op.value, batch));
    }
    runner.give_output();
    runner.loss(answers(batch));
  });
}

template <class Machine>
void Engine<Machine>::inspect_backward(const RunSegment& a, const Batch& batch, const Segment& segment) {
  with_type([&](auto type) {
    Runner<decltype(type), Machine> runner(plan_, *machine_, memory(a.slot, a.buffer));
    for (auto op = plan_.ops.rbegin(); op != plan_.ops.rend(); ++op) {
      if (op->backward_first < segment.first || op->backward_last > segment.last ||
          op->backward_first == op->backward_last)
        continue;
      runner.backward(op->backward_first, op->backward_last);
      std::vector<std::vector<float>> diffs;
      for (const PlannedOp::Place& diff : op->diff_inputs)
        diffs.push_back(fetch<decltype(type)>(diff, batch));
      const std::vector<std::span<const float>> views(diffs.begin(), diffs.end());
      const float* slot = slots_[static_cast<std::size_t>(a.slot)];
      const std::span<const float> gradient = inspector_.see(slot + op->flat.begin, op->flat.size());
      inputs_now_->inspector->backward(op->nodes, gradient, views);
    }
  });
}

}  // namespace lockstep::cuda
