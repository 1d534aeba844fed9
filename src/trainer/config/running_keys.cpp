#include "trainer/config/key_row.h"

namespace lockstep::keys {
namespace {

using C = Config;

}  // namespace

void add_running(std::vector<ConfigBinding>& t) {
  const auto checkpoint = &C::checkpoint;
  t.push_back(row("checkpoint.every_steps", checkpoint, &C::Checkpoint::every_steps,
                  "steps between checkpoints (0: at the end of epochs)")
                  .placement());
  t.push_back(row("checkpoint.keep", checkpoint, &C::Checkpoint::keep, "checkpoints that are kept")
                  .between(1, 1e6)
                  .placement());
  t.push_back(row("checkpoint.async", checkpoint, &C::Checkpoint::async,
                  "write checkpoints behind the training, which stops for a copy only")
                  .placement());

  const auto guard = &C::guard;
  t.push_back(
      row("guard.nonfinite", guard, &C::Guard::nonfinite,
          "a gradient or loss that is NaN or infinite: stop, skip the batch, or roll back and skip it")
          .one_of({"stop", "skip", "rollback"}));
  t.push_back(
      row("guard.spike", guard, &C::Guard::spike, "a loss far above those before it: as above, or off")
          .one_of({"off", "stop", "skip", "rollback"}));
  t.push_back(row("guard.spike_factor", guard, &C::Guard::spike_factor,
                  "a spike is a loss above so many times the mean of the window")
                  .between(1, 1e6)
                  .above(1));
  t.push_back(row("guard.spike_window", guard, &C::Guard::spike_window, "steps whose losses make that mean")
                  .between(1, 1e5));
  t.push_back(
      row("guard.limit", guard, &C::Guard::limit, "batches that may be skipped in a run; one more stops it")
          .between(0, 1e6));

  const auto check = &C::check;
  t.push_back(row("check.replicas_every", check, &C::Check::replicas_every,
                  "steps between comparisons of the ranks' parameters (0: never)")
                  .placement());
  t.push_back(row("check.replicas", check, &C::Check::replicas,
                  "where they differ: stop, or repair from the majority of three or more ranks")
                  .one_of({"stop", "repair"})
                  .placement());
  t.push_back(row("check.recompute_every", check, &C::Check::recompute_every,
                  "steps between slices that another rank computes again (0: never)")
                  .placement());
  t.push_back(row("watchdog.timeout", &C::watchdog, &C::Watchdog::timeout,
                  "seconds without progress until the job ends with a report (0: wait for ever)")
                  .between(0, 1e6)
                  .placement());

  const auto log = &C::log;
  t.push_back(row("log.every_steps", log, &C::Log::every_steps, "steps between lines of metrics.jsonl")
                  .between(1, 1e15)
                  .placement());
  t.push_back(row("log.timeline", log, &C::Log::timeline, "record what each rank did when").placement());
  t.push_back(row("log.per_rank", log, &C::Log::per_rank, "a log file of every rank in the run directory")
                  .placement());
  t.push_back(row("log.straggler_factor", log, &C::Log::straggler_factor,
                  "warn of a rank so many times slower than the median (0: never)")
                  .between(0, 1e6)
                  .placement());
  t.push_back(row("device.kind", &C::device, &C::Device::kind, "where to compute; --device for short")
                  .one_of({"auto", "cpu", "cuda"}));
  t.push_back(
      row("device.threads", &C::device, &C::Device::threads, "lanes per rank (0: its share of the cores)")
          .between(0, 4096)
          .placement());
  t.push_back(row("device.deterministic", &C::device, &C::Device::deterministic,
                  "GPU: only library plans that give the same bits in every run"));
  t.push_back(row("device.graph", &C::device, &C::Device::graph, "GPU: capture kernels into CUDA graphs")
                  .placement());
  t.push_back(row("device.fuse", &C::device, &C::Device::fuse,
                  "GPU: compute batch norm together with convolutions, GELU and bias gradients with "
                  "dense layers, where the library can"));
  t.push_back(row("device.workspace_mb", &C::device, &C::Device::workspace_mb,
                  "GPU: most MiB that a library plan may take")
                  .between(0, 1e6));
  t.push_back(row("device.autotune", &C::device, &C::Device::autotune,
                  "GPU: measure the library plans of each shape, take the fastest"));
  t.push_back(row("device.plan_cache", &C::device, &C::Device::plan_cache,
                  "file or folder for what autotuning found (empty: in the user's cache)")
                  .placement());
  t.push_back(
      row("device.pin", &C::device, &C::Device::pin, "pin lanes to cores when each has its own").placement());
  t.push_back(row("device.share", &C::device, &C::Device::share,
                  "let several ranks use one GPU; collectives then go through the host")
                  .placement());
  t.push_back(row("comm.backend", &C::comm, &C::Comm::backend,
                  "what carries gradients between GPUs: nccl, or mpi through the host")
                  .one_of({"auto", "nccl", "mpi"})
                  .placement());
}

}  // namespace lockstep::keys
