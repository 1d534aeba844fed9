#!/usr/bin/env python3
"""Training steps and the sum of gradients on GPUs, Lockstep and PyTorch in turns (A B A B ...), as Markdown. Started by
run.sh.

Both train the same models on made batches, and both measure which kernels are fast (device.autotune, cudnn.benchmark).
PyTorch: bf16 by autocast, channels_last, fused optimizer, eager and compiled, the better of the two; its batches lie on the
GPU from the start, so that it pays for no loading, and Lockstep does. With several GPUs both run with one rank on each,
PyTorch as DistributedDataParallel with NCCL. A ratio above 1 means that Lockstep is faster. The file is written anew after
every row."""
import argparse
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys

from first import MemoryWatch
import workloads
from workloads import PEERS, ROOT, WORKLOADS

sys.path.insert(0, os.path.join(ROOT, "benchmarks"))
from compare import ratio_row  # noqa: E402

LIMIT = 120  # seconds of one run


def run_json(argv):
    """The last line of JSON that a program prints. It is ended after LIMIT; where it fails, the end of its stderr is told."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                          start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if process.returncode != 0 or not lines:
        print("\n".join(err.splitlines()[-30:]), file=sys.stderr)
        raise SystemExit(f"{' '.join(argv)} ended with {process.returncode}")
    return json.loads(lines[-1])


def ours(a, workload, ranks, slices=None, *more, steps=None):
    return run_json(workloads.lockstep(a.build, workload, "--autotune", "true", *more, ranks=ranks, slices=slices, steps=steps))


def theirs(workload, ranks, *more, steps=None):
    return run_json(workloads.torch(workload, *more, ranks=ranks, steps=steps))


def memory_of(run):
    """In a run that nobody times: nvidia-smi is started beside it."""
    with MemoryWatch() as memory:
        run()
    return memory.mib


def better_flags(workload, ranks):
    times = []
    for flags in ([], ["--compile"]):
        try:
            times.append((theirs(workload, ranks, *flags)["median_ms"], flags))
        except SystemExit as e:  # a release that cannot compile here is compared without it
            print("left out:", e, file=sys.stderr)
    if not times:
        raise SystemExit(f"PyTorch runs {workload} neither eagerly nor compiled")
    return min(times)[1]


class Page(list):
    """Lines of Markdown that are in the file as soon as they are added, whole at any moment."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def __iadd__(self, lines):
        self.extend(lines)
        with open(self.path + ".new", "w", encoding="utf-8") as f:
            f.write("\n".join(self) + "\n")
        os.replace(self.path + ".new", self.path)
        return self

    def row(self, line):
        self.__iadd__([line])
        print(line, flush=True)


def step_row(a, workload, ranks, lines):
    batch, _, flops = WORKLOADS[workload]
    flags = better_flags(workload, ranks)
    mine, other = [], []
    for _ in range(a.turns):
        mine.append(ours(a, workload, ranks))
        other.append(theirs(workload, ranks, *flags))
    most = memory_of(lambda: ours(a, workload, ranks, steps=5))
    most_other = memory_of(lambda: theirs(workload, ranks, *flags, steps=5))
    o, t, ratio, low, high = ratio_row([x["median_ms"] for x in mine], [x["median_ms"] for x in other])
    rate = batch * ranks / o * 1e3
    lines.row(f"| {workload} | {batch} | {o:.3f} | {t:.3f} | **{ratio:.2f}** | {low:.2f} to {high:.2f} | {rate:.0f} | "
              f"{rate / ranks * 3 * flops / a.peak:.1%} | {most} | {most_other} | {' '.join(flags) or 'eager'} |")


def steps(a, ranks, lines):
    lines += [f"## Training steps, bf16, {ranks} rank{'s' if ranks > 1 else ''}", "",
              "Medians over turns; the spread is the smallest and largest ratio of a turn. One slice a rank, so batch norm sees "
              "the rank's batch in both. Share of peak: three times the forward pass's FLOPs over the device's. Memory: the most "
              "in use on the GPU, all of it, as nvidia-smi shows it.", "",
              "| workload | batch a rank | Lockstep ms | PyTorch ms | ratio | spread | samples/s | share of peak | "
              "Lockstep MiB | PyTorch MiB | PyTorch |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    failed = False
    for workload in a.workloads:
        try:
            step_row(a, workload, ranks, lines)
        except SystemExit as e:  # the other workloads are measured all the same
            failed = True
            print(e, file=sys.stderr)
            lines.row(f"| {workload} | failed |" + " |" * 9)
    lines += [""]
    return not failed


def sums(a, ranks, lines):
    mine = [run_json(["mpirun", "-n", str(ranks), "--bind-to", "none",
                      os.path.join(a.build, "benchmarks", "device_sum_bench")]) for _ in range(a.turns)]
    other = [run_json([sys.executable, os.path.join(PEERS, "torch_allreduce.py"), "--ranks", str(ranks)])
             for _ in range(a.turns)]
    lines += [f"## The sum of 25 MiB over {ranks} GPUs", "", "| way | us | bus GB/s |", "|---|---|---|"]
    rows = [(way, [m[way] for m in mine]) for way in ("ordered", "ordered_sharded", "fast")]
    for name, told in rows + [("PyTorch all_reduce", other)]:
        us, rate = (statistics.median(t[key] for t in told) for key in ("median_us", "bus_gb_per_s"))
        lines.row(f"| {name} | {us:.0f} | {rate:.1f} |")
    lines += ["", "## Ordered against fast", "", "| workload | ordered ms | fast ms | ordered / fast |", "|---|---|---|---|"]
    for workload in a.workloads:
        pairs = [(ours(a, workload, ranks, 4 * ranks)["median_ms"],
                  ours(a, workload, ranks, 4 * ranks, "--fast")["median_ms"]) for _ in range(a.turns)]
        o, f = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        lines.row(f"| {workload} | {o:.3f} | {f:.3f} | {o / f:.3f} |")
    lines += [""]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", required=True)
    p.add_argument("--output", required=True)
    p.add_argument("--turns", type=int, default=5)
    p.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    p.add_argument("--peak", type=float, default=989e12, help="bf16 FLOP/s of the device (H100 and H200 SXM: 989e12)")
    a = p.parse_args()
    a.build = os.path.abspath(a.build)
    import torch

    gpus = torch.cuda.device_count()
    lines = Page(a.output)
    lines += [f"# Lockstep and PyTorch on {torch.cuda.get_device_name()}, {datetime.date.today()}", "",
             f"{gpus} GPU{'s' if gpus > 1 else ''}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, "
             f"cuDNN {torch.backends.cudnn.version()}, {a.turns} turns each.", ""]
    good = steps(a, 1, lines)
    if gpus > 1:
        good = steps(a, gpus, lines) and good
        sums(a, gpus, lines)
    else:
        lines += ["One GPU: nothing to sum between GPUs, so the all-reduce and `ordered` against `fast` are left out.", ""]
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
