#include "model/cuda/step_program.h"

#include "core/error.h"

namespace lockstep::cuda {

StepProgram make_step_program(const SliceSchedule& schedule, const Plan& plan, bool staged) {
  StepProgram program;
  auto& out = program.actions;
  const auto event = [&] { return program.events++; };
  const auto rounds = schedule.rounds.size();
  for (const auto& round : schedule.rounds)
    require(round.work.size() == 1, "a GPU computes one slice at a time");
  std::vector<int> uploaded(rounds), consumed(rounds);
  const auto upload = [&](std::size_t r) {
    if (r >= 2) out.push_back(Wait{consumed[r - 2], Lane::upload});
    out.push_back(Upload{schedule.rounds[r].work[0].slice, static_cast<int>(r % 2)});
    uploaded[r] = event();
    out.push_back(Record{uploaded[r], Lane::upload});
  };
  if (rounds > 0) upload(0);
  for (std::size_t r = 0; r < rounds; ++r) {
    const SliceSchedule::Round& round = schedule.rounds[r];
    const SliceSchedule::Work& work = round.work[0];
    const int buffer = static_cast<int>(r % 2);
    if (r + 1 < rounds) upload(r + 1);
    out.push_back(Wait{uploaded[r], Lane::compute});
    out.push_back(RunForward{work.slice, work.slot, buffer});
    const bool last = r + 1 == rounds;
    for (std::size_t s = 0; plan.training && s < plan.segments.size(); ++s) {
      const Range flat = plan.segments[s].flat;
      out.push_back(RunSegment{work.slice, static_cast<int>(s), work.slot, buffer});
      if (flat.size() > 0)
        for (const auto& merge : round.merges) out.push_back(MergeSlots{merge.into, merge.from, flat});
      if (!last || flat.size() == 0) continue;
      if (!staged) {
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
    consumed[r] = event();
    out.push_back(Record{consumed[r], Lane::compute});
  }
  return program;
}

}  // namespace lockstep::cuda
