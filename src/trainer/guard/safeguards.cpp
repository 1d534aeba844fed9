#include "trainer/guard/safeguards.h"

#include <fmt/format.h>

#include "core/counted.h"
#include "core/error.h"
#include "trainer/step/augmentation_choice.h"

namespace lockstep {

/// Lets tests spoil what a check computes, as they spoil steps.
class Safeguards::ProbeListener final : public SliceGradientListener {
 public:
  explicit ProbeListener(const Safeguards& owner) : owner_(owner) {}
  void slice_ready(std::int64_t slice, Range range, std::span<float> gradient) override {
    owner_.c_.hooks.after_slice(owner_.step_, slice, range, gradient, true);
  }

 private:
  const Safeguards& owner_;
};

Safeguards::Safeguards(Context context)
    : c_(std::move(context)), guard_(c_.config.guard, c_.comm, c_.config.train.slices) {
  if (c_.config.check.replicas_every > 0)
    replicas_ =
        std::make_unique<ReplicaCheck>(c_.step, c_.config.optimizer.sharded,
                                       c_.config.check.replicas == "repair", c_.hosts, c_.comm, c_.lanes);
  if (c_.config.check.recompute_every == 0) return;
  RecomputeCheck::Options options;
  options.every = c_.config.check.recompute_every;
  options.seed = c_.config.run.seed;
  options.data = c_.data;
  options.fields = c_.fields.readers;
  options.hosts = c_.hosts;
  if (c_.hooks.after_slice) {
    probe_listener_ = std::make_unique<ProbeListener>(*this);
    options.listener = probe_listener_.get();
  }
  recompute_ = std::make_unique<RecomputeCheck>(c_.order, std::move(options), c_.comm);
  probe();
}

Safeguards::~Safeguards() = default;

bool Safeguards::ask_before_update(const Config& config) {
  return config.guard.spike != "off" || config.check.recompute_every > 0;
}

SliceProbe& Safeguards::probe() {
  if (!probe_)
    probe_ = std::make_unique<SliceProbe>(c_.graph, c_.config.train.global_batch / c_.config.train.slices,
                                          c_.lanes, c_.device, c_.step.executor().plan_choice(),
                                          c_.comm.recorder(), c_.fields.transforms);
  if (c_.device.scales_loss) probe_->set_loss_scale(c_.step.loss_scale().scale);
  return *probe_;
}

void Safeguards::begin_step(std::int64_t step, const LoadedBatch& batch) {
  step_ = step;
  batch_ = batch.range;
  const std::int64_t slice = recompute_ ? recompute_->slice_of(step, batch.range) : -1;
  recompute_now_ = slice >= 0;
  c_.step.keep_slice(slice);
}

bool Safeguards::before_update(std::span<const SliceResult> results) {
  if (recompute_now_) recompute_->run(step_, batch_, c_.step.parameters(), c_.step.kept_gradient(), probe());
  return !guard_.watches_spikes() || guard_.accept_loss(step_, results);
}

Safeguards::Verdict Safeguards::judge(StepFault fault, const LoadedBatch& batch,
                                      const std::function<std::int64_t()>& last_checkpoint) {
  const bool spike = fault == StepFault::refused;
  const FaultScene scene{c_.comm,          c_.graph,           probe(), batch.slices, c_.step.parameters(),
                         c_.step.totals(), c_.config.run.seed, step_};
  const FaultReport report = spike ? find_spike(scene, guard_.last_bound()) : find_nonfinite(scene);
  Verdict verdict;
  verdict.policy = spike ? guard_.spike() : guard_.nonfinite();
  SkippedBatch& left_out = verdict.batch;
  left_out.step = step_;
  left_out.position = batch.range.position;
  left_out.epoch = batch.range.epoch;
  left_out.reason =
      spike
          ? fmt::format("the loss is {:.6g}, above the bound of {:.6g}, which is {} times the mean of {}; {}",
                        guard_.last_loss(), guard_.last_bound(), c_.config.guard.spike_factor,
                        counted(c_.config.guard.spike_window, "step"), report.what)
          : report.what;
  if (!report.samples.empty())
    left_out.reason += fmt::format("; the first of them is {}", c_.data->where(report.samples[0]));
  const EpochOrder::Epoch epoch = c_.order.epoch(batch.range.epoch);
  for (std::int64_t i = 0; i < batch.range.count; ++i)
    left_out.samples.push_back(epoch.sample(batch.range.first + i));

  const bool full = !guard_.may_skip();
  const bool useless = report.in_parameters && verdict.policy == GuardPolicy::skip;
  if (verdict.policy != GuardPolicy::stop && !full && !useless) return verdict;
  const std::string key = spike ? "guard.spike" : "guard.nonfinite";
  const std::int64_t saved = last_checkpoint();
  const std::string last = saved > 0 ? fmt::format("the last checkpoint is that of step {}", saved)
                                     : std::string("there is no checkpoint yet");
  const std::string advice =
      verdict.policy == GuardPolicy::stop
          ? fmt::format(
                "Look at these samples, lower optimizer.lr, lengthen schedule.warmup_steps or set "
                "optimizer.clip_norm; a run that is started with {} = skip goes on without such batches",
                key)
      : useless ? std::string(
                      "To leave batches out does not mend parameters: lower optimizer.lr, lengthen "
                      "schedule.warmup_steps or set optimizer.clip_norm")
                : fmt::format("{} been left out before, and guard.limit allows no more",
                              counted(static_cast<std::int64_t>(guard_.skipped().size()), "batch has",
                                      "batches have"));
  throw DivergenceError(fmt::format("step {}: {}. The step was not applied, and {}. {}", step_ + 1,
                                    left_out.reason, last, advice));
}

bool Safeguards::replicas_due(std::int64_t steps, bool last) const {
  return replicas_ && (last || steps % c_.config.check.replicas_every == 0);
}

std::string Safeguards::check_replicas(std::int64_t steps, bool last) {
  if (c_.hooks.between_steps) c_.hooks.between_steps(steps, c_.step.writable_parameters());
  return replicas_due(steps, last) ? replicas_->run(steps) : "";
}

}  // namespace lockstep
