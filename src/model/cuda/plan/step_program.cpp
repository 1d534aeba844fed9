#include "model/cuda/plan/step_program.h"

#include <algorithm>

#include "core/error.h"

namespace lockstep::cuda {

StepProgram make_step_program(const SliceSchedule& schedule, const Plan& plan, StepShape shape, int turn) {
  StepProgram program;
  auto& out = program.actions;
  const auto rounds = schedule.rounds.size();
  const bool whole = shape == StepShape::whole;
  if (whole) program.input_buffers = 2 * static_cast<int>(rounds);
  program.events = 2 * program.input_buffers;
  const auto event = [&] { return program.events++; };
  for (const auto& round : schedule.rounds)
    require(round.work.size() == 1, "a GPU computes one slice at a time");
  program.turns = rounds % 2 == 0 && !whole ? 1 : 2;
  const auto buffer_of = [&](std::size_t r) {
    const std::size_t number = static_cast<std::size_t>(turn) * rounds + r;
    return static_cast<int>(whole ? number : number % 2);
  };
  const auto upload = [&](std::size_t r) {
    const int buffer = buffer_of(r);
    out.push_back(Wait{consumed_event(buffer), Lane::upload});
    out.push_back(Upload{schedule.rounds[r].work[0].slice, buffer});
    out.push_back(Record{uploaded_event(buffer), Lane::upload});
  };
  for (std::size_t r = 0; r < (whole ? rounds : std::min<std::size_t>(rounds, 1)); ++r) upload(r);
  for (std::size_t r = 0; whole && r < rounds; ++r)
    out.push_back(Wait{uploaded_event(buffer_of(r)), Lane::compute});
  program.body_begin = out.size();
  for (std::size_t r = 0; r < rounds; ++r) {
    const SliceSchedule::Round& round = schedule.rounds[r];
    const SliceSchedule::Work& work = round.work[0];
    const int buffer = buffer_of(r);
    if (!whole) {
      if (r + 1 < rounds) upload(r + 1);
      out.push_back(Wait{uploaded_event(buffer), Lane::compute});
    }
    out.push_back(RunForward{work.slice, work.slot, buffer});
    const bool last = r + 1 == rounds;
    for (std::size_t s = 0; plan.training && s < plan.segments.size(); ++s) {
      const Range flat = plan.segments[s].flat;
      out.push_back(RunSegment{work.slice, static_cast<int>(s), work.slot, buffer});
      if (flat.size() > 0)
        for (const auto& merge : round.merges) out.push_back(MergeSlots{merge.into, merge.from, flat});
      if (!last || flat.size() == 0) continue;
      if (shape != StepShape::staged) {
        out.push_back(Announce{flat, -1});
        continue;
      }
      const int finished = event();
      out.push_back(Record{finished, Lane::compute});
      out.push_back(Wait{finished, Lane::download});
      out.push_back(Download{flat});
      const int landed = event();
      out.push_back(Record{landed, Lane::download});
      out.push_back(Announce{flat, landed});
    }
    if (!whole) out.push_back(Record{consumed_event(buffer), Lane::compute});
  }
  program.body_end = whole ? out.size() : program.body_begin;
  for (std::size_t r = 0; whole && r < rounds; ++r)
    out.push_back(Record{consumed_event(buffer_of(r)), Lane::compute});
  return program;
}

}  // namespace lockstep::cuda
