#!/usr/bin/env python3
"""Measures what reliability costs: saves, the watch for values that are not finite, the replica check, the flight
recorder and the word by which ranks agree to stop. Writes Markdown. Each cost is taken in turns with the same work
without it.

Started by hand, on a machine with nothing else to do: benchmarks/safeguards.py --build build"""
import argparse
import datetime
import os
import re
import shutil
import statistics
import tempfile

from compare import HERE, machine, mpirun, ratio_row, run_json

MODES = [(1, 2), (2, 1)]


def saves(a, lines):
    lines += ["## A save every 50 steps, resnet18_cifar", "",
              "90 MB a save: weights and momentum. `stop`: from the call to the return of the save in the "
              "step. `cost`: the time of 50 steps with a save in them over 50 without, in turns; aim: 3 %. `cpu`: "
              "processor time of rank 0 for a save, the file's checksums and the disk included, over that of 50 steps.", "",
              "| ranks x threads | step ms | stop ms | cost | lowest to highest of the pairs | cpu |",
              "|---|---|---|---|---|---|"]
    for mode in MODES:
        folder = tempfile.mkdtemp(prefix="saves-", dir=a.disk)
        try:
            r = run_json(mpirun(mode[0], os.path.join(a.build, "benchmarks", "train_bench"), "--workload",
                                "resnet18_cifar", "--threads", str(mode[1]), "--slices", "2", "--save_every", "50",
                                "--pairs", str(a.pairs), "--save_dir", os.path.join(folder, "run")))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        lines.append(f"| {mode[0]} x {mode[1]} | {r['mean_step_ms']:.1f} | {r['stop_ms']:.1f} | "
                     f"**{r['cost_percent']:.2f} %** | {r['cost_percent_lowest']:.2f} % to {r['cost_percent_highest']:.2f} % | "
                     f"{100 * r['cpu_per_save_ms'] / (50 * r['cpu_per_step_ms']):.2f} % |")
        print(lines[-1], flush=True)
    lines.append("")


def watches(a, lines):
    lines += ["## Watches", "",
              "One thread a rank. `watch`: a step that looks for values that are not finite over one that does not. "
              "`replica check`: one comparison of all replicas, over 100 steps; aim: 1 %. `recorder`: events and signs of "
              "progress of a step, each at its cost in a row, over the step; aim: 0.1 %.", "",
              "| workload | ranks | step ms | watch | replica check ms | at 100 steps | recorder: events a step | ns each | "
              "signs of progress | ns each | of the step |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    for workload, rounds in (("mlp", 40), ("resnet18_cifar", 8)):
        for ranks in (1, 2):
            runs = [run_json(mpirun(ranks, os.path.join(a.build, "benchmarks", "safeguards_bench"), workload, str(rounds)))
                    for _ in range(a.turns)]
            m = {k: statistics.median(r[k] for r in runs) for k in runs[0] if isinstance(runs[0][k], (int, float))}
            lines.append(f"| {workload} | {ranks} | {m['step_ms']:.2f} | {100 * (m['watched_over_bare'] - 1):+.2f} % | "
                         f"{m['replica_check_ms']:.2f} | **{100 * m['replica_check_at_100_steps']:.3f} %** | "
                         f"{m['recorder_events_per_step']:.0f} | {m['recorder_event_ns']:.0f} | "
                         f"{m['recorder_beats_per_step']:.0f} | {m['recorder_beat_ns']:.1f} | "
                         f"**{100 * m['recorder_share']:.4f} %** |")
            print(lines[-1], flush=True)
    lines.append("")


def left_out(a, lines):
    lines += ["## The watchdog, and the word by which ranks agree to stop", "",
              "2 ranks x 1 thread, a step with it over one without it.", "",
              "| | workload | with ms | without ms | ratio | spread |", "|---|---|---|---|---|---|"]
    for workload, steps in (("mlp", 60), ("keras_cnn", 300)):
        def one(*more):
            return run_json(mpirun(2, os.path.join(a.build, "benchmarks", "train_bench"), "--workload", workload, "--threads",
                                   "1", "--slices", "2", "--steps", str(steps), *more))["median_ms"]
        for what in ("watchdog", "control"):
            pairs = [(one(), one("--no_" + what)) for _ in range(2 * a.turns + 1)]
            o, w, ratio, low, high = ratio_row([p[1] for p in pairs], [p[0] for p in pairs])
            lines.append(f"| {what} | {workload} | {w:.3f} | {o:.3f} | {ratio:.3f} | {low:.3f} to {high:.3f} |")
            print(lines[-1], flush=True)
    lines.append("")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--build", default="build")
    p.add_argument("--turns", type=int, default=5)
    p.add_argument("--pairs", type=int, default=5, help="blocks of 50 steps with and without a save")
    p.add_argument("--disk", help="the folder to save below [that for temporary files]")
    p.add_argument("--output")
    a = p.parse_args()
    a.build = os.path.abspath(a.build)
    if os.geteuid() == 0:  # Open MPI refuses root unless told twice
        os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    date, cpu = datetime.date.today().isoformat(), machine()
    lines = [f"# What reliability costs, on {cpu}, {date}", "",
             f"{os.cpu_count()} cores. Load average at the start: {os.getloadavg()[0]:.1f}. Written by "
             "`benchmarks/safeguards.py`.", ""]
    watches(a, lines)
    left_out(a, lines)
    saves(a, lines)
    name = a.output or os.path.join(
        HERE, "results", f"{date}-safeguards-{re.sub(r'[^a-z0-9]+', '-', cpu.lower()).strip('-')}.md")
    with open(name, "w") as f:
        f.write("\n".join(lines))
    print("written to", name)


if __name__ == "__main__":
    main()
