#!/usr/bin/env python3
"""Runs Lockstep and PyTorch in turns (A B A B ...) and writes medians, ratios and spread as Markdown.

Started by run.sh. A ratio above 1 means that Lockstep is faster. Every figure is a median over turns; the spread is the
smallest and largest ratio of a turn."""
import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PEER = os.path.join(HERE, "peers", "torch_bench.py")
STARTUP = os.path.join(HERE, "peers", "torch_startup.py")

# Slices for (ranks, threads): of the whole job. Batch norm sees one slice.
SLICES = {
    "mlp": {(1, 2): 1, (2, 1): 2},
    "keras_cnn": {(1, 2): 2, (2, 1): 2},
    "resnet18_cifar": {(1, 2): 2, (2, 1): 2},
}
MODES = [(1, 2), (2, 1)]
STEPS = {"mlp": 60, "keras_cnn": 150, "resnet18_cifar": 6}


def run_json(argv, env=None):
    out = subprocess.run(argv, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                         text=True, timeout=900)
    lines = [line for line in out.stdout.splitlines() if line.startswith("{")]
    if out.returncode != 0 or not lines:
        raise SystemExit(f"{' '.join(argv)} ended with {out.returncode}")
    return json.loads(lines[-1])


def mpirun(ranks, program, *args):
    return ["mpirun", "-n", str(ranks), "--bind-to", "none", program, *args]


def lockstep(a, workload, mode, slices, *more):
    return run_json(mpirun(mode[0], os.path.join(a.build, "benchmarks", "train_bench"), "--workload", workload,
                           "--threads", str(mode[1]), "--slices", str(slices), "--steps", str(STEPS[workload]), *more))


def torch(workload, mode, flags):
    return run_json([sys.executable, PEER, "--workload", workload, "--ranks", str(mode[0]), "--threads", str(mode[1]),
                     "--steps", str(STEPS[workload]), *flags])


def best_torch(workload, mode, compile_too):
    """The flags with which PyTorch is fastest here: eager or compiled, plain or channels_last, fused optimizer or not."""
    trials = [[], ["--fused"]] + ([["--channels-last"]] if workload != "mlp" else [])
    times = []

    def attempt(flags):
        try:
            times.append((torch(workload, mode, flags)["median_ms"], flags))
        except SystemExit as e:  # a variant that this release cannot run is no candidate
            print("left out:", e, file=sys.stderr)

    for flags in trials:
        attempt(flags)
    if compile_too:
        attempt(min(times)[1] + ["--compile"])
    return min(times)[1]


def ratio_row(ours, theirs):
    ratios = [t / o for o, t in zip(ours, theirs)]
    return (statistics.median(ours), statistics.median(theirs), statistics.median(theirs) / statistics.median(ours),
            min(ratios), max(ratios))


def compare(a, lines):
    lines += ["## Training steps, fp32", "",
              "Milliseconds a step: medians of the turns' medians. `ratio` is PyTorch's time over Lockstep's; `spread` the "
              "smallest and largest ratio of a turn. S is the number of slices of the whole job; batch norm in Lockstep "
              "sees a slice, in PyTorch the rank's batch. Memory is the peak resident size of a rank.", "",
              "| workload | ranks x threads | S | Lockstep ms | PyTorch ms | ratio | spread | samples/s | Lockstep MiB | "
              "PyTorch MiB | PyTorch flags |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    for workload in a.workloads:
        for mode in MODES:
            flags = best_torch(workload, mode, not a.no_compile)
            slices = SLICES[workload][mode]
            ours, theirs = [], []
            for _ in range(a.turns):
                ours.append(lockstep(a, workload, mode, slices))
                theirs.append(torch(workload, mode, flags))
            o, t, ratio, low, high = ratio_row([x["median_ms"] for x in ours], [x["median_ms"] for x in theirs])
            lines.append(f"| {workload} | {mode[0]} x {mode[1]} | {slices} | {o:.2f} | {t:.2f} | **{ratio:.2f}** | "
                         f"{low:.2f} to {high:.2f} | {ours[0]['batch_per_rank'] * mode[0] / o * 1e3:.0f} | "
                         f"{max(max(x['peak_rss_mib']) for x in ours):.0f} | "
                         f"{max(max(x['peak_rss_mib']) for x in theirs):.0f} | {' '.join(flags) or 'eager'} |")
            print(lines[-1], flush=True)
    lines.append("")


def startup(a, lines):
    ours, theirs, alone = [], [], []
    for _ in range(a.turns):
        begin = time.time()
        end = run_json(mpirun(2, os.path.join(a.build, "benchmarks", "train_bench"), "--workload", "keras_cnn",
                              "--threads", "1", "--slices", "2", "--startup"))["first_step_end"]
        ours.append(end - begin)
        theirs.append(run_json([sys.executable, STARTUP, "--ranks", "2", "--repeats", "1"])["median_s"])
        begin = time.time()
        subprocess.run(mpirun(2, "true"), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        alone.append(time.time() - begin)
    o, t, ratio, low, high = ratio_row(ours, theirs)
    lines += ["## Start-up", "", "Seconds from the launch to the end of the first step of keras_cnn on 2 ranks.", "",
              "| Lockstep | PyTorch DDP | ratio | spread | mpirun of `true` alone |", "|---|---|---|---|---|",
              f"| {o:.2f} | {t:.2f} | **{ratio:.2f}** | {low:.2f} to {high:.2f} | {statistics.median(alone):.2f} |", ""]
    print(lines[-2], flush=True)


def allreduce(a, lines):
    runs = [run_json(mpirun(2, os.path.join(a.build, "benchmarks", "allreduce_bench"))) for _ in range(a.turns)]
    keys = [k for k in runs[0] if isinstance(runs[0][k], (int, float))]
    lines += ["## The sum of 25 MiB by 2 ranks", "",
              "`copies`: both ranks copying 25 MiB at once. Medians over the turns; each turn is itself a median.", "",
              "| figure | median | lowest | highest |", "|---|---|---|---|"]
    for k in keys:
        values = [r[k] for r in runs]
        lines.append(f"| {k} | {statistics.median(values):.4g} | {min(values):.4g} | {max(values):.4g} |")
    lines.append("")
    print("\n".join(lines[-len(keys) - 1:]), flush=True)


def reductions(a, lines):
    lines += ["## Ordered against fast", "",
              "The cost of the same bits: 2 ranks x 1 thread, 4 slices a rank, `ordered` over `fast`.", "",
              "| workload | ordered ms | fast ms | ordered / fast |", "|---|---|---|---|"]
    for workload in a.workloads:
        pairs = [(lockstep(a, workload, (2, 1), 8)["median_ms"], lockstep(a, workload, (2, 1), 8, "--fast")["median_ms"])
                 for _ in range(a.turns)]
        o, f = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        lines.append(f"| {workload} | {o:.2f} | {f:.2f} | {o / f:.3f} |")
        print(lines[-1], flush=True)
    lines.append("")


def machine():
    with open("/proc/cpuinfo") as f:
        info = f.read()
    model = re.search(r"model name\s*:\s*(.*)", info)
    return model.group(1).strip() if model else platform.processor()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--build", default="build")
    p.add_argument("--turns", type=int, default=5)
    p.add_argument("--workloads", nargs="+", default=list(SLICES), choices=list(SLICES))
    p.add_argument("--no-compile", action="store_true", help="leave torch.compile out of PyTorch's trials")
    p.add_argument("--output")
    a = p.parse_args()
    a.build = os.path.abspath(a.build)
    import torch as torch_module
    date = datetime.date.today().isoformat()
    cpu = machine()
    lines = [f"# Lockstep and PyTorch on {cpu}, {date}", "",
             f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, PyTorch {torch_module.__version__}, "
             f"{a.turns} turns each. Load average at the start: {os.getloadavg()[0]:.1f}.", ""]
    compare(a, lines)
    startup(a, lines)
    allreduce(a, lines)
    reductions(a, lines)
    name = a.output or os.path.join(HERE, "results", f"{date}-{re.sub(r'[^a-z0-9]+', '-', cpu.lower()).strip('-')}.md")
    with open(name, "w") as f:
        f.write("\n".join(lines))
    print("written to", name)


if __name__ == "__main__":
    main()
